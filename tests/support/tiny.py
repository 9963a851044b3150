"""Options of networks that train in a second."""

TINY = {
    "dataset_mode": "multi-class",
    "image_size": 16,
    "num_channels": 32,
    "channel_mult": [1],
    "num_res_blocks": 1,
    "attention_resolutions": [],
    "diffusion_steps": 50,
    "batch_size": 3,
    "lr": 1e-3,
    "ema_rate": [0.99],
    "preview_interval": 0,
    "tensorboard": False,
}

TWO_LEVELS = {**TINY, "channel_mult": [1, 1], "attention_resolutions": [8]}
"""For tests of what happens at levels: attention, features of blocks, latents."""

ON_GPU = {**TWO_LEVELS, "compile": False, "num_workers": 0, "max_epochs": 1, "drop_rate": 0.3}
"""Three steps on a pretended GPU: in this process, and uncompiled, as a compiler would make code for a real one."""
