"""Errors that carry what their line says."""

from __future__ import annotations

import os
import pickle

import pytest
from torch.utils.data import DataLoader, Dataset

from guided_diffusion.runtime.errors import DataError, lacks_memory, lost_workers, unfit_gpu


def test_fields_make_the_line_and_survive_a_process() -> None:
    error = pickle.loads(pickle.dumps(DataError.of("a: b.png", "it is empty", "copy it again")))
    assert error.messages == ("a: b.png: it is empty; copy it again",)
    assert (error.path, error.found, error.remedy) == ("a: b.png", "it is empty", "copy it again")


def test_lines_survive_a_process() -> None:
    error = pickle.loads(pickle.dumps(DataError(["one", "two"], collective=True)))
    assert error.messages == ("one", "two")
    assert error.collective
    assert error.path == ""


class Killed(Dataset):
    """A dataset whose reading ends the process, as the system does where memory is short."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        os._exit(1)


def test_a_killed_data_loading_process_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as error:
        list(DataLoader(Killed(), num_workers=1))
    assert lost_workers(error.value).startswith("num_workers: ")
    assert lost_workers(RuntimeError("a fault of the program")) == ""
    of_a_gpu = "out of resource: shared memory, Required: 147456, Hardware limit: 101376."
    assert lost_workers(RuntimeError(of_a_gpu)) == ""


@pytest.mark.parametrize(
    "message",
    [
        "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)",
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory. Please try to raise your shared memory limit.",
        "Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).",
    ],
)
def test_what_pytorch_says_without_shared_memory(message):
    assert "/dev/shm" in lost_workers(RuntimeError(message))


@pytest.mark.parametrize(
    "message",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 9.00 GB)",
        "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9",
    ],
)
def test_what_devices_and_systems_say_without_memory(message):
    assert lacks_memory(RuntimeError(message))
    assert not lacks_memory(RuntimeError("a fault of the program"))


def test_a_gpu_that_pytorch_has_no_code_for():
    assert unfit_gpu(RuntimeError("CUDA error: no kernel image is available for execution on the device")) != ""
    assert unfit_gpu(RuntimeError("CUDA error: out of memory")) == ""
