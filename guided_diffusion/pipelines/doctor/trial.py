"""Things that may hang, or end the process that tries them; run as a script: `trial.py NAME DEVICE [NAME DEVICE ...]`.

Each prints one line of JSON when it is done, so that those before one that crashes are known. Imports nothing of the
house, so that it runs wherever its file lies.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable


def autocast(kind: str, device: str) -> str:
    """Run convolution, product and their gradients in bf16 or fp16; return how fast they are compared with fp32."""
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[kind]
    place = torch.device(device)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(32, 64, 3, padding=1), torch.nn.SiLU(), torch.nn.Flatten(2), torch.nn.Linear(256, 256)
    ).to(place)
    images = torch.randn(8, 32, 16, 16, device=place)

    def step(enabled: bool) -> tuple[torch.Tensor, torch.Tensor]:
        network.zero_grad()
        with torch.autocast(place.type, dtype=dtype, enabled=enabled):
            made = network(images)
        made.float().square().mean().backward()
        return made, network[0].weight.grad.cpu()

    (exact, gradient), (made, rounded) = step(False), step(True)
    if made.dtype != dtype:
        raise RuntimeError(f"autocast makes {made.dtype}, not {dtype}")
    for name, first, second in (("outputs", exact, made), ("gradients", gradient, rounded)):
        error = (first.float() - second.float()).norm() / first.float().norm()
        if not error < 0.1:
            raise RuntimeError(f"{name} differ from those of fp32 by {100 * float(error):.0f} %")
    times = {False: [], True: []}
    for enabled in 10 * (False, True):  # in turn, and the least: other work delays some of them
        started = time.perf_counter()
        step(enabled)[1].sum().item()
        times[enabled].append(time.perf_counter() - started)
    return f"a small layer is {min(times[False]) / min(times[True]):.1f} times as fast as in fp32"


def compiled(device: str) -> str:
    """Compile a small function for `device` and compare what it returns."""
    import torch

    def function(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(x) * 2 + x.square()

    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(device)
    started = time.perf_counter()
    made = torch.compile(function)(x)
    error = float((made - function(x)).abs().max())
    if not error < 1e-3:
        raise RuntimeError(f"its result is wrong by {error:.2g}")
    return f"a small function took {time.perf_counter() - started:.0f} s"


def mpi() -> str:
    """Return the version of the MPI library, without starting MPI."""
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    library = MPI.Get_library_version().strip("\0").split("\n")[0].strip()
    return f"mpi4py {mpi4py.__version__}, {' '.join(library.split())}"


TRIALS: dict[str, Callable[[str], str]] = {
    "bf16": lambda device: autocast("bf16", device),
    "fp16": lambda device: autocast("fp16", device),
    "compile": compiled,
    "mpi": lambda device: mpi(),
}


def main(arguments: list[str]) -> None:
    """Try everything that is named, each on the device after it."""
    for name, device in zip(arguments[::2], arguments[1::2], strict=True):
        try:
            works, detail = True, TRIALS[name](device)
        except Exception as error:
            works, detail = False, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        print(json.dumps({"name": name, "works": works, "detail": detail}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
