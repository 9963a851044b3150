"""Ranks that torchrun and mpiexec give to the processes they start; imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping

_RANKS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),  # MPICH, Intel MPI, Microsoft MPI
)


def launched_as(environment: Mapping[str, str] = os.environ) -> tuple[int, int, int]:
    """Return (rank, number of processes, local rank) from the environment variables of torchrun or mpiexec."""
    for rank, size, local in _RANKS:
        if rank in environment and size in environment:
            return int(environment[rank]), int(environment[size]), int(environment.get(local, environment[rank]))
    return 0, 1, 0
