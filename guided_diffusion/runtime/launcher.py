"""Ranks that torchrun and mpiexec give to the processes they start; imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping

_LAUNCHERS = (  # rank, processes, rank on this machine, processes on this machine
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),  # torchrun
    # Open MPI
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # MPICH, Intel MPI, Microsoft MPI
)


def launched_as(environment: Mapping[str, str] = os.environ) -> tuple[int, int, int]:
    """Return (rank, number of processes, local rank) from what torchrun or mpiexec left in the environment."""
    for rank, size, local, _ in _LAUNCHERS:
        if rank in environment and size in environment:
            return int(environment[rank]), int(environment[size]), int(environment.get(local, environment[rank]))
    return 0, 1, 0


def processes_here(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processes of the run are on this machine, or at least are where the launcher does not tell."""
    for rank, size, _, here in _LAUNCHERS:
        if rank in environment and size in environment:
            return max(launched_as(environment)[2] + 1, int(environment.get(here, 1)))
    return 1
