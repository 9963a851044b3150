"""Two processes are never put on one GPU."""

from __future__ import annotations

import json

import pytest
from pretended_cuda import pretended_cuda
from tiny import ON_GPU

from guided_diffusion import cli
from guided_diffusion.runtime.distributed import choose_device
from guided_diffusion.runtime.errors import UserError

OPEN_MPI = [f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")]
LAUNCHED = {
    "torchrun": ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"],
    "Open MPI": OPEN_MPI,
    "MPICH": ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"],
    "a launcher that does not say how many are here": OPEN_MPI[:3],
}


def launched(monkeypatch, launcher: str, rank: int, size: int) -> None:
    for name, value in zip(LAUNCHED[launcher], (rank, size, rank, size), strict=False):
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("launcher", list(LAUNCHED)[:3])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_more_processes_than_gpus_are_refused_in_one_line(launcher, rank, lemons, monkeypatch, capsys, tmp_path):
    launched(monkeypatch, launcher, rank, 3)
    values = {**ON_GPU, "data_dir": lemons, "output_dir": tmp_path / "run", "device": "auto"}
    with pretended_cuda(count=2):
        code = cli.main(["train", *(f"--set={key}={json.dumps(value, default=str)}" for key, value in values.items())])
    assert code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == (rank == 0)  # one process tells it
    assert all(fact in line for line in lines for fact in ("device", "3 processes", "see 2", "at most 2", "cpu"))
    assert not (tmp_path / "run").exists()


def test_a_process_without_a_gpu_of_its_own_is_refused(lemons, monkeypatch, tmp_path):
    launched(monkeypatch, "a launcher that does not say how many are here", 2, 3)
    values = {**ON_GPU, "data_dir": lemons, "output_dir": tmp_path / "run", "device": "cuda"}
    with pretended_cuda(count=2):
        code = cli.main(["train", *(f"--set={key}={json.dumps(value, default=str)}" for key, value in values.items())])
    assert code == 2


def test_each_process_gets_a_gpu_of_its_own():
    with pretended_cuda(count=2):
        assert [choose_device("auto", rank, 2).index for rank in (0, 1)] == [0, 1]
        assert choose_device("cuda:1").index == 1
        for name, rank, processes in (("cuda", 2, 1), ("auto", 0, 3), ("cuda:1", 0, 2), ("cuda:2", 0, 1)):
            with pytest.raises(UserError):
                choose_device(name, rank, processes)
        assert choose_device("cpu", 2, 3).type == "cpu"
