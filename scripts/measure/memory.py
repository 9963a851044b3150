"""Measure the peak memory of training steps by image size, channels and batch; print a Markdown table.

    python -m scripts.measure.memory [--sizes 64:32 64:64 128:64 256:64] [--batches 1 4] [--device auto]

Each case runs in a process of its own. On a GPU the figure is what PyTorch allocated; on a CPU it is the largest
resident size of the process less its size before the network was built.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

CASE = """
import sys
import torch
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.models.unet import build_unet
from guided_diffusion.runtime.distributed import choose_device
from guided_diffusion.runtime.memory import keep_freed_memory, peak_memory_gib

size, channels, batch, classes, checkpointed, precision, device = (
    *map(int, sys.argv[1:6]), sys.argv[6], choose_device(sys.argv[7]))
if device.type == "cpu":
    keep_freed_memory()  # as training does
before = 0.0 if device.type == "cuda" else peak_memory_gib(device)
options = ModelOptions(num_channels=channels, num_head_channels=32, use_checkpoint=bool(checkpointed))
model = build_unet(options, image_size=size, num_classes=classes).to(device)
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
averages = [p.detach().clone() for p in model.parameters()]
label = torch.randint(0, classes, (batch, size // 8, size // 8), dtype=torch.uint8)
label = label.repeat_interleave(8, 1).repeat_interleave(8, 2)
dtype = {"fp32": None, "bf16": torch.bfloat16}[precision]
for _ in range(2):
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        x, t = torch.randn(batch, 3, size, size, device=device), torch.rand(batch, device=device)
        output = model(x, t, SemanticMap(label, classes).to(device))
    output.square().mean().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
print(peak_memory_gib(device) - before, sum(p.numel() for p in model.parameters()) / 1e6)
"""


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["64:32", "64:64", "128:64"], help="image_size:num_channels")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    print(f"{date.today()}, {platform.machine()}, device {options.device}, {options.classes} classes\n")
    print("| image_size | num_channels | parameters | batch_size | precision | GiB | GiB with use_checkpoint |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for size, batch, precision in itertools.product(options.sizes, options.batches, options.precisions):
        side, channels = size.split(":")
        found = []
        for checkpointed in (0, 1):
            arguments = [side, channels, batch, options.classes, checkpointed, precision, options.device]
            found.append(run_case([str(argument) for argument in arguments]))
        plain, checkpointed_run = found
        print(
            f"| {side} | {channels} | {plain[1]:.0f} M | {batch} | {precision} | {plain[0]:.1f} | "
            f"{checkpointed_run[0]:.1f} |",
            flush=True,
        )


def run_case(arguments: list[str]) -> tuple[float, float]:
    """Return (GiB, million parameters) of one case."""
    root = Path(__file__).resolve().parents[2]
    shown = subprocess.run(
        [sys.executable, "-c", CASE, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    memory, parameters = shown.stdout.split()
    return float(memory), float(parameters)


if __name__ == "__main__":
    main()
