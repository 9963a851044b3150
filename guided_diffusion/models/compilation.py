"""torch.compile for the network, compiled once for all batch sizes."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from guided_diffusion.models.conditioning import Modulations
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.runtime.errors import ConfigError, one_line

COMPILING = "compiling the network: the first steps take a minute or more (compile=false does without)"
COMPILERS = ("cl",) if sys.platform == "win32" else ("c++", "g++", "clang++")


def wants_compiling(asked: bool | str, device: torch.device, *, label_diffusion: bool = False) -> bool:
    """Return whether to compile the network on `device`: as `asked`, or for "auto" on CUDA with all that Triton needs.

    "auto" does not compile with label diffusion, where each combination of SPADE forms over the levels would be
    compiled separately. Raises ConfigError if it is asked for without a C++ compiler, or on CUDA without Triton.
    """
    compiler = any(map(shutil.which, COMPILERS))
    has_triton = importlib.util.find_spec("triton") is not None
    if asked == "auto":
        return device.type == "cuda" and compiler and has_triton and has_python_headers() and not label_diffusion
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


def has_python_headers() -> bool:
    """Return whether there is `Python.h`, which the code of Triton includes; Debian has it in python3-dev."""
    scheme = sysconfig.get_default_scheme()
    scheme = "posix_prefix" if scheme == "posix_local" else scheme  # Debian's own, which has no headers
    return Path(sysconfig.get_path("include", scheme), "Python.h").is_file()


def compile_network(
    model: UNetModel, *, failed: Callable[[str], None] | None = None, backend: str | Callable = "inductor"
) -> None:
    """Compile `encode` and `decode` of `model` when they are first called, for any number of images above 1.

    They are compiled again for each combination of SPADE forms over the levels; `modulate` has outputs of sizes that
    depend on the data, and stays. failed: told if the compiler fails, and nothing is compiled; None: ConfigError.
    """
    from torch._dynamo.exc import BackendCompilerFailed  # takes a second, as much as all of torch

    plain = (model.encode, model.decode)
    encode, decode = (torch.compile(part, backend=backend) for part in plain)

    def without(error: Exception) -> None:
        nonlocal encode, decode
        cause = getattr(error, "inner_exception", error)
        reason = one_line(f"{type(cause).__name__}: {str(cause).strip().partition(chr(10))[0]}")
        found = f"torch.compile failed ({reason})"
        if failed is None:
            raise ConfigError(f"compile is true: {found}; set it to false, or see what `doctor` finds") from error
        failed(f"{found}: going on without it, which is slower (compile=false does not try)")
        encode, decode = plain

    def encode_any(x: Tensor, t: Tensor, augment: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        _may_vary((x, t) if augment is None else (x, t, augment))
        try:
            return encode(x, t, augment)
        except BackendCompilerFailed as error:
            without(error)
        return encode(x, t, augment)

    def decode_any(
        skips: Sequence[Tensor], emb: Tensor, modulations: Modulations, *, with_masks: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        _may_vary((*skips, emb))
        for modulation in modulations:
            _may_vary(modulation.tensors())
        try:
            return decode(skips, emb, modulations, with_masks=True) if with_masks else decode(skips, emb, modulations)
        except BackendCompilerFailed as error:
            without(error)
        return decode(skips, emb, modulations, with_masks=with_masks)

    model.encode, model.decode = encode_any, decode_any


def _may_vary(tensors: Iterable[Tensor]) -> None:
    """Tell the compiler that the first dimension of `tensors` differs between calls."""
    for tensor in tensors:
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
