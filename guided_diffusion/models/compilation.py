"""torch.compile for the network, once for all batches."""

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
    """Return whether the network on `device` is to be compiled: as `asked`, or for "auto" where that is sure to work.

    With label diffusion "auto" does without: each combination of forms that modulations take over the levels is
    compiled by itself. Raises ConfigError where it is asked for and cannot be done.
    """
    compiler = any(map(shutil.which, COMPILERS))
    if asked == "auto":
        found = compiler and importlib.util.find_spec("triton") is not None
        return device.type == "cuda" and found and not label_diffusion
    if asked and not compiler:
        raise ConfigError(
            f"compile is true, but there is no C++ compiler ({', '.join(COMPILERS)}) on the PATH, which torch.compile "
            "needs: install one, or set compile to false"
        )
    return bool(asked)


def compile_network(model: UNetModel, *, backend: str = "inductor") -> None:
    """Have `encode` and `decode` of `model` compiled when they are first called.

    They are compiled for any number of images (two or more) and of distinct patches, as both change from batch to
    batch; once more for each combination of forms that the modulations of the levels come in. `modulate` stays as it
    is: it counts, and what it puts out has sizes that no compiler can foresee.
    """
    encode, decode = (torch.compile(part, backend=backend) for part in (model.encode, model.decode))

    def encode_any(x: Tensor, t: Tensor) -> tuple[list[Tensor], Tensor]:
        _may_vary((x, t))
        return encode(x, t)

    def decode_any(skips: Sequence[Tensor], emb: Tensor, modulations: Modulations) -> Tensor:
        _may_vary((*skips, emb))
        for modulation in modulations:
            _may_vary(modulation.tensors())
        return decode(skips, emb, modulations)

    model.encode, model.decode = encode_any, decode_any


def _may_vary(tensors: Iterable[Tensor]) -> None:
    """Tell the compiler that the first dimension of each of `tensors` differs between calls."""
    for tensor in tensors:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
