"""`finetune`: train on with dropped masks, for classifier-free guidance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guided_diffusion.actions.assemble import options_of_checkpoint
from guided_diffusion.actions.train import Start, own_state, train
from guided_diffusion.checkpoint import BEST, find_checkpoint, load_checkpoint
from guided_diffusion.config import FinetuneConfig
from guided_diffusion.distributed import join
from guided_diffusion.errors import ConfigError


def run(config: FinetuneConfig) -> int:
    """Finetune the model of `config.resume_checkpoint` in `config.output_dir`, or continue doing so."""
    source = find_checkpoint(config.resume_checkpoint, prefer=BEST)
    if source.parent.resolve() == Path(config.output_dir).resolve():
        raise ConfigError(
            f"output_dir is the folder of resume_checkpoint ({source.parent}): the finetuned model would replace "
            "the trained one; choose another output_dir"
        )
    world = join(config.device)
    try:
        checkpoint = load_checkpoint(source)
        options = _complete(config, options_of_checkpoint(checkpoint, config))
        own = own_state(options)
        train(options, Start(checkpoint) if own is None else Start(own, continues=True), world, action="finetune")
    finally:
        world.close()
    return 0


def _complete(config: FinetuneConfig, trained: dict[str, Any]) -> dict[str, Any]:
    """Return the resolved options: the config's own, and the checkpoint's where they are left to it."""
    own = config.to_json()
    return {key: trained.get(key) if value in (None, "") else value for key, value in own.items()}
