"""A GPU that is only pretended: tensors whose values lie on the CPU, and which behave as if they lay on cuda:0.

    with pretended_cuda() as gpu:
        ...                  # "cuda" is available; what a GPU refuses raises GpuError
    gpu.read_backs           # where the program waited for a value of the GPU

A tensor on the device is an `OnDevice`, which holds the CPU tensor that computes. A dispatch mode sees every operation
that PyTorch runs, refuses those whose tensors or generators lie on different devices, and puts the results where a GPU
would. What a GPU does at other times or with other rounding is not pretended.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import torch
from nested_tensors import tensors_in, with_each
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
aten = torch.ops.aten

COPIES = {aten.copy_.default, aten._to_copy.default, aten._foreach_copy_.default}
"""Operations that go from one device to another."""
INDEXED = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default}
"""Operations that take index tensors of the CPU for values of a GPU."""
SCALARS_TOO = {aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.floor_divide.default}
"""Operations that take a single number of the CPU for tensors of a GPU, beside those that are tagged as pointwise."""
READS = {aten._local_scalar_dense.default, aten.equal.default}
"""Operations whose result is a Python value."""


class GpuError(RuntimeError):
    """What PyTorch refuses on a GPU, or what goes wrong on one without an error."""


class NoArrayError(GpuError, TypeError):
    """An array of values that lie on the GPU."""


class Gpu:
    """What the program has done with the pretended device.

    read_backs: file and line of each value that the program waited for: `item`, `bool`, `tolist`, `cpu`, ...
    waits: the same of operations whose result has a size that only the GPU knows (`unique`, boolean masks).
    uploads: the same of copies to the device that wait until it has done what it was asked before (not `non_blocking`).
    pinned: tensors that were put into page-locked memory.
    """

    def __init__(self) -> None:
        self.read_backs: list[str] = []
        self.waits: list[str] = []
        self.uploads: list[str] = []
        self.pinned = 0
        # Whether what C++ makes goes where the tensors of the running function lie: C++ takes them to be on the CPU.
        self._follows = [False]

    def clear(self) -> None:
        """Forget what was done so far."""
        self.read_backs.clear()
        self.waits.clear()
        self.uploads.clear()

    @contextmanager
    def following(self, follows: bool) -> Iterator[None]:
        """Have what C++ makes while the block runs follow the device of the arguments, or not."""
        self._follows.append(follows)
        try:
            yield
        finally:
            self._follows.pop()

    def read_back(self, tensor: OnDevice) -> Tensor:
        """Return the values of `tensor` on the CPU, as something that the program waits for."""
        self.read_backs.append(_line())
        return tensor.host

    def run(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run an operation of PyTorch as a GPU would."""
        tensors = tensors_in((args, kwargs))
        here = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        if here and len(here) < len(tensors):
            _check_devices(func, args, here, [tensor for tensor in tensors if not isinstance(tensor, OnDevice)])
        if func is aten._pin_memory.default:
            self.pinned += 1
            return args[0].clone()
        if func is aten.is_pinned.default:
            return False
        on_device = self._is_on_device(func, args, kwargs, here)
        self._check_generator(func, kwargs.get("generator"), on_device)
        self._count(func, args, kwargs, here, on_device)
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": CPU}
        of_host = {id(tensor.host): tensor for tensor in here}
        arguments = with_each(OnDevice, lambda tensor: tensor.host, (tuple(args), kwargs))
        result = func(*arguments[0], **arguments[1])
        if not on_device:
            return result

        def placed(tensor: Tensor) -> OnDevice:  # what an operation changed in place is the tensor that it was given
            return of_host[id(tensor)] if id(tensor) in of_host else OnDevice.of(tensor, self)

        return with_each(Tensor, placed, result)

    def _is_on_device(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], here: list[OnDevice]) -> bool:
        """Return whether the results of an operation lie on the device."""
        if func is aten.copy_.default:
            return isinstance(args[0], OnDevice)
        asked = kwargs.get("device")
        if asked is not None and torch.device(asked).type == "cuda":
            return True
        if self._follows[-1] and (here or not tensors_in(args)):
            return True
        return asked is None and bool(here)

    def _check_generator(self, func: Any, generator: torch.Generator | None, on_device: bool) -> None:
        expected = CUDA if on_device else CPU
        if generator is not None and _Generator.devices.get(generator._cdata, CPU) != expected:
            raise GpuError(f"{func}: found a generator of another device, expected one of {expected}")

    def _count(
        self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], here: list[OnDevice], on_device: bool
    ) -> None:
        if func is aten._to_copy.default and on_device and not here and not kwargs.get("non_blocking"):
            self.uploads.append(_line())
        if not here:
            return
        if func in READS or (func in COPIES and not on_device):
            # A copy to the CPU that nobody waits for may be read before it is there.
            if kwargs.get("non_blocking") or (func is aten.copy_.default and args[2:3] == (True,)):
                raise GpuError(f"{func}: a copy to the CPU with non_blocking, read before it has arrived")
            self.read_backs.append(_line())
        elif torch.Tag.dynamic_output_shape in func.tags and _has_unknown_size(func, args, kwargs):
            self.waits.append(_line())


def _has_unknown_size(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    if func is aten.index.Tensor:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return kwargs.get("output_size") is None


def _check_devices(func: Any, args: Sequence[Any], here: list[OnDevice], there: list[Tensor]) -> None:
    """Raise GpuError where a GPU does not take tensors of both devices."""
    if func in COPIES:
        return
    if func in INDEXED:
        values = args[2] if len(args) > 2 else None
        if isinstance(args[0], OnDevice) and (values is None or isinstance(values, OnDevice) or values.ndim == 0):
            return
    elif (torch.Tag.pointwise in func.tags or func in SCALARS_TOO) and all(tensor.ndim == 0 for tensor in there):
        return
    shapes = [[tuple(tensor.shape) for tensor in part] for part in (here, there)]
    raise GpuError(f"{func}: expected all tensors on one device, found {shapes[0]} on cuda:0 and {shapes[1]} on cpu")


def _line() -> str:
    """Return file and line of the innermost function of this repository that is no test support."""
    frame = sys._getframe(1)
    while frame and not (name := _in_repository(frame.f_code.co_filename)):
        frame = frame.f_back
    return f"{name}:{frame.f_lineno}" if frame else "outside"


@cache
def _in_repository(filename: str) -> str:
    """Return the path of a file below the repository, "" for test support and what does not belong to it."""
    path = Path(filename)
    others = {"site-packages", Path(__file__).parent.name}.intersection(path.parts)  # the former may lie in the tree
    return "" if others or not path.is_relative_to(ROOT) else str(path.relative_to(ROOT))


# ------------------------------------------------------------------------------------------------ tensors


class OnDevice(Tensor):
    """A tensor on the pretended device; `host` holds its values."""

    host: Tensor
    gpu: Gpu

    @staticmethod
    def of(host: Tensor, gpu: Gpu) -> OnDevice:
        """Return the tensor on `gpu` whose values are those of `host`, sharing its memory."""
        tensor = Tensor._make_wrapper_subclass(
            OnDevice,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=CPU,  # C++ knows no pretended device, and would ask the driver for streams
        )
        tensor.host, tensor.gpu = host, gpu
        return tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        gpu = next(each.gpu for each in tensors_in((args, kwargs)) if isinstance(each, OnDevice))
        with torch._C.DisableTorchFunctionSubclass(), gpu.following("device" not in kwargs):
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        gpu = next(each.gpu for each in tensors_in((args, kwargs)) if isinstance(each, OnDevice))
        return gpu.run(func, args, kwargs)

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    data = property(lambda self: self.detach())

    def to(self, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype, *args[1:])
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        device, dtype = device or CUDA, dtype or self.dtype
        if (device.type, dtype, memory_format, copy) == ("cuda", self.dtype, None, False):
            return self
        more = {} if memory_format is None else {"memory_format": memory_format}
        with self.gpu.following(False):
            return aten._to_copy.default(self, device=device, dtype=dtype, non_blocking=non_blocking, **more)

    def cpu(self, **kwargs: Any) -> Tensor:
        return self.to(CPU, **kwargs)

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
        return self

    def type_as(self, other: Tensor) -> Tensor:
        return self.to(other)

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, device: Any = CUDA, **kwargs: Any) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=device, **kwargs)

    def tolist(self) -> Any:
        return self.gpu.read_back(self).tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise NoArrayError("can't convert a tensor of cuda:0 to numpy: use Tensor.cpu() first")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def pin_memory(self, *args: Any) -> Tensor:
        raise GpuError("only dense CPU tensors can be pinned, found one of cuda:0")

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.gpu.read_back(self).__reduce_ex__(protocol)

    def __repr__(self, **kwargs: Any) -> str:
        return f"OnDevice({self.host!r})"


class _Generator(torch.Generator):
    """A generator that calls itself one of the device it was asked for."""

    devices: ClassVar[dict[int, torch.device]] = {}
    """By the address of the C++ object: operations are shown another Python object for it."""

    def __new__(cls, device: torch.device | str = "cpu") -> _Generator:
        self = super().__new__(cls)
        cls.devices[self._cdata] = CUDA if torch.device(device).type == "cuda" else CPU
        return self

    device = property(lambda self: self.devices[self._cdata])

    def manual_seed(self, seed: int) -> _Generator:
        super().manual_seed(seed)
        return self


class _Mode(TorchDispatchMode):
    """Shows every operation to the pretended GPU, those without a tensor of it, too."""

    def __init__(self, gpu: Gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return self.gpu.run(func, args, kwargs or {})


# ------------------------------------------------------------------------------------------------ what is replaced


@contextmanager
def pretended_cuda(*, count: int = 1) -> Iterator[Gpu]:
    """Pretend that this machine has `count` GPUs while the block runs; all tensors lie on the first of them."""
    if torch.cuda.is_available():  # then C++ must not learn from what follows that it has been initialized
        torch.cuda.init()
    gpu = Gpu()
    with ExitStack() as stack:
        for owner, name, value in (*_replaced_in_cuda(count), *_replaced_in_torch(gpu)):
            if hasattr(owner, name):  # newer and older versions have other names
                stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(_Mode(gpu))
        yield gpu


Replaced = tuple[Any, str, Any]


def _replaced_in_cuda(count: int) -> list[Replaced]:
    """Return (owner, name, value) of what would ask the driver."""
    state = torch.zeros(16, dtype=torch.uint8)
    accelerator = getattr(torch, "accelerator", None)
    idle = SimpleNamespace(is_capturing=lambda: False)
    silent = ("set_device", "manual_seed_all", "reset_peak_memory_stats", "empty_cache", "synchronize")
    return [
        *((torch.cuda, name, lambda *given: None) for name in silent),
        (torch.cuda, "_lazy_init", lambda: None),
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "device_count", lambda: count),
        (torch.cuda, "current_device", lambda: 0),
        (torch.cuda, "is_current_stream_capturing", lambda: False),
        (torch.cuda, "max_memory_allocated", lambda device=None: 0),
        (torch.cuda, "get_rng_state", lambda device="cuda": state),
        (torch.cuda, "set_rng_state", lambda new, device="cuda": None),
        (accelerator, "is_available", lambda: True),
        (accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda")),
        (accelerator, "current_stream", lambda device=None: idle),
    ]


def _replaced_in_torch(gpu: Gpu) -> list[Replaced]:
    """Return (owner, name, value) of what C++ decides by the device that it takes the tensors to be on."""
    autocast, inference = torch.amp.autocast_mode.autocast, torch.autograd.grad_mode.inference_mode
    backward = torch.autograd.function.BackwardCFunction
    group, begin, apply = torch._C._group_tensors_by_device_and_dtype, autocast.__init__, backward.apply
    is_enabled, dtype_of, convert_module = torch.is_autocast_enabled, torch.get_autocast_dtype, nn.Module._apply

    def of_cpu(device_type: str) -> str:
        return "cpu" if device_type == "cuda" else device_type

    def begin_autocast(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        begin(self, of_cpu(device_type), *args, **kwargs)

    def group_by_device(lists: Any, with_indices: bool = False) -> Any:
        found = group(lists, with_indices).items()
        return {(_device_of(groups[0], device), dtype): groups for (device, dtype), groups in found}

    def apply_backward(self: Any, *args: Any) -> Any:
        with gpu.following(False):  # a backward pass in Python says itself where it puts what it makes
            return apply(self, *args)

    def convert(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        # Else a parameter that moves is another object, which an optimizer does not know.
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return convert_module(self, *args, **kwargs)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(False)

    def enter(self: Any) -> None:  # tensors made in inference mode cannot be wrapped
        self.pretended = torch.no_grad() if self.mode else nullcontext()
        self.pretended.__enter__()

    return [
        (torch, "Generator", _Generator),
        (torch, "tensor", _moving(torch.tensor)),
        (torch, "as_tensor", _moving(torch.as_tensor)),
        (torch, "is_autocast_enabled", lambda device_type="cuda": is_enabled(of_cpu(device_type))),
        (torch, "get_autocast_dtype", lambda device_type: dtype_of(of_cpu(device_type))),
        (autocast, "__init__", begin_autocast),
        (inference, "__enter__", enter),
        (inference, "__exit__", lambda self, *error: self.pretended.__exit__(*error)),
        (backward, "apply", apply_backward),
        (nn.Module, "_apply", convert),
        (torch._C, "_group_tensors_by_device_and_dtype", group_by_device),
    ]


def _device_of(lists: Sequence[Sequence[Tensor | None]], device: torch.device) -> torch.device:
    return CUDA if any(isinstance(tensor, OnDevice) for tensors in lists for tensor in tensors) else device


def _moving(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `torch.tensor` or `torch.as_tensor` for the pretended device: C++ makes on the CPU and then moves."""

    def made(data: Any, *, device: torch.device | str | None = None, **kwargs: Any) -> Tensor:
        if isinstance(data, OnDevice):
            return data.to(device=device or CUDA, dtype=kwargs.get("dtype"), copy=make is not torch.as_tensor)
        tensor = make(data, **kwargs)
        return tensor if device is None else tensor.to(device)

    return made
