"""Tell which process this is, from a launcher's variables, before anything heavy is imported."""

from __future__ import annotations

import os

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""Variables of torchrun and accelerate, and of MPI's launchers, in accelerate's order."""


def number_of_processes() -> int:
    """Return how many processes a launcher started; 1 without one."""
    return max(1, first_number(SIZES, 1))


def process_rank() -> int:
    """Return the number of this process among them, from 0."""
    return first_number(RANKS, 0)


def is_first_process() -> bool:
    """Whether this is the process that speaks and writes: the only one, or rank 0 under a launcher."""
    return process_rank() == 0


def first_number(names: tuple[str, ...], default: int) -> int:
    """Return the value of the first variable that is set to a whole number."""
    values = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdecimal()), default)
