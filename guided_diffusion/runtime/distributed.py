"""The processes of a run: one by default, several if torchrun or mpiexec started them.

A single process initializes nothing. MPI only gives the address where the processes meet, if the launcher's
environment variables lack it; the gradients travel by torch.distributed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.launcher import launched_as, processes_here
from guided_diffusion.runtime.memory import keep_freed_memory
from guided_diffusion.runtime.nvidia import unused_gpu, warn_of_unused_gpu

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """This process's `rank` among `size`, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and prints."""
        return self.rank == 0

    def refuse_others(self, action: str) -> None:
        """Raise UserError, told once, where several processes run an action that is for one."""
        if self.size > 1:
            line = f"{action} runs in one process: start it without torchrun or mpiexec"
            raise UserError(line, collective=True, already_printed=not self.is_main)

    def barrier(self) -> None:
        """Wait until every process has reached this call."""
        if self.size > 1:
            dist.barrier()

    def sum(self, values: Tensor) -> Tensor:
        """Return `values` summed over the processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """Return the picklable `value` of every process, in rank order."""
        if self.size == 1:
            return [value]
        everyone: list[Any] = [None] * self.size
        dist.all_gather_object(everyone, value)
        return everyone

    def run_on_main(self, work: Callable[[], T]) -> T:
        """Run `work` in the main process; return its result, or raise its UserError, in every process."""
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = work()
            except UserError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            outcome[1].collective, outcome[1].already_printed = True, not self.is_main
            raise outcome[1]
        return outcome[0]

    def run_everywhere(self, make: Callable[[], T]) -> T:
        """Return what each process makes for itself, for what cannot be sent; the main one first.

        A UserError of the main process is raised in every process, so that it is told once.
        """
        made: list[T] = []
        self.run_on_main(lambda: made.append(make()) if self.is_main else None)
        return made[0] if self.is_main else make()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the process group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def choose_device(name: str, local_rank: int = 0, processes: int = 1) -> torch.device:
    """Return the device that `name` means: auto, cpu, cuda, cuda:1 or mps.

    processes: of the run on this machine. Raises UserError where it does not exist here, or where two of the processes
    would be put on one GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError.of("device", f"{name!r} found", "use auto, cpu, cuda, cuda:1 or mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError.of("device", "'mps' found, but this machine has none", "use auto or cpu")
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count()
    if count == 0:
        found = f"{name!r} found, but PyTorch {torch.__version__} sees no GPU here"
        raise UserError.of("device", found, unused_gpu() or "use auto or cpu")
    processes = max(processes, local_rank + 1)
    if processes > count:
        found = f"{name!r} found, but {processes} processes need a GPU each on this machine and see {count}"
        remedy = f"start at most {count}, have the launcher show them more, or set device to cpu"
        raise UserError.of("device", found, remedy)
    if device.index is not None and processes > 1:
        raise UserError.of("device", f"{name!r} found, a GPU that {processes} processes would share", "use cuda")
    index = local_rank if device.index is None else device.index
    if index >= count:
        remedy = f"use cuda:0 to cuda:{count - 1}, or auto"
        raise UserError.of("device", f"{name!r} found, but there are {count} GPUs", remedy)
    return torch.device("cuda", index)


def init_distributed(device_name: str) -> ProcessGroup:
    """Join the other processes of the run, if any; `with` leaves them at its end. A CPU keeps the memory it freed.

    Raises UserError if the device does not exist, or if mpiexec started several processes without mpi4py.
    """
    rank, size, local_rank = launched_as()
    processes = processes_here()
    try:
        device = choose_device(device_name, local_rank, processes)
    except UserError as error:
        error.collective = processes == size  # then all of them see the same GPUs, and one of them tells it
        error.already_printed = error.collective and rank > 0
        raise
    if device.type == "cpu":
        keep_freed_memory()
        if device_name == "auto" and rank == 0:
            warn_of_unused_gpu()
    if size == 1:
        return ProcessGroup(0, 1, device)
    if "MASTER_ADDR" not in os.environ:
        _meet_by_mpi(size)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo",
        rank=rank,
        world_size=size,
        timeout=timedelta(hours=6),  # one process scans the dataset while the others wait
    )
    return ProcessGroup(rank, size, device)


def _meet_by_mpi(size: int) -> None:
    """Set the address and port where the processes meet, which MPI's first process chooses."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, the MPI library is not
        raise UserError(
            f"mpiexec started {size} processes, but mpi4py cannot be used ({error}): "
            "pip install mpi4py mpich, or start with torchrun"
        ) from None
    address = None
    if MPI.COMM_WORLD.Get_rank() == 0:
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        host = "127.0.0.1" if _all_on_this_machine(size) else socket.gethostname()
        address = (host, port)
    host, port = MPI.COMM_WORLD.bcast(address)
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = host, str(port)


def _all_on_this_machine(size: int) -> bool:
    local = os.environ.get("MPI_LOCALNRANKS") or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE")
    return local is None or int(local) == size


def abort_others(code: int) -> None:
    """End the other processes of an mpiexec job, which would wait for this one forever; no effect elsewhere."""
    _, size, _ = launched_as()
    if size == 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        return
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        return
    if MPI.Is_initialized() and not MPI.Is_finalized():
        MPI.COMM_WORLD.Abort(code)
