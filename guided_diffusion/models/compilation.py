"""torch.compile for the network, compiled once for all batch sizes."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from guided_diffusion.models.conditioning import Modulations
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.runtime.errors import ConfigError

COMPILING = "compiling the network: the first steps take a minute or more (compile=false does without)"
COMPILERS = ("cl",) if sys.platform == "win32" else ("c++", "g++", "clang++")


def wants_compiling(asked: bool | str, device: torch.device, *, label_diffusion: bool = False) -> bool:
    """Return whether to compile the network on `device`: as `asked`, or for "auto" on CUDA with Triton.

    "auto" does not compile with label diffusion, where each combination of SPADE forms over the levels would be
    compiled separately. Raises ConfigError if it is asked for without a C++ compiler, or on CUDA without Triton.
    """
    compiler = any(map(shutil.which, COMPILERS))
    has_triton = importlib.util.find_spec("triton") is not None
    if asked == "auto":
        return device.type == "cuda" and compiler and has_triton and not label_diffusion
    if asked and not compiler:
        raise ConfigError(
            f"compile is true, but there is no C++ compiler ({', '.join(COMPILERS)}) on the PATH, which torch.compile "
            "needs: install one, or set compile to false"
        )
    if asked and device.type == "cuda" and not has_triton:  # which PyTorch for Windows does not bring along
        package = "triton-windows" if sys.platform == "win32" else "triton"
        found = "compile is true, but Triton, which torch.compile needs on a GPU, is not installed"
        raise ConfigError(f"{found}: pip install {package}, or set compile to false")
    return bool(asked)


def compile_network(model: UNetModel, *, backend: str = "inductor") -> None:
    """Compile `encode` and `decode` of `model` when they are first called, for any number of images above 1.

    They are compiled again for each combination of SPADE forms over the levels. `modulate` is not compiled: its output
    has sizes that depend on the data.
    """
    encode, decode = (torch.compile(part, backend=backend) for part in (model.encode, model.decode))

    def encode_any(x: Tensor, t: Tensor, augment: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        _may_vary((x, t) if augment is None else (x, t, augment))
        return encode(x, t, augment)

    def decode_any(
        skips: Sequence[Tensor], emb: Tensor, modulations: Modulations, *, with_masks: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        _may_vary((*skips, emb))
        for modulation in modulations:
            _may_vary(modulation.tensors())
        return decode(skips, emb, modulations, with_masks=True) if with_masks else decode(skips, emb, modulations)

    model.encode, model.decode = encode_any, decode_any


def _may_vary(tensors: Iterable[Tensor]) -> None:
    """Tell the compiler that the first dimension of `tensors` differs between calls."""
    for tensor in tensors:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
