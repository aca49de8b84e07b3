"""Which process this is, before anything heavy is imported."""

from __future__ import annotations

import os


def number_of_processes() -> int:
    """How many processes a launcher started; 1 without one."""
    number = os.environ.get("WORLD_SIZE", "1")
    return int(number) if number.isdigit() else 1


def is_first_process() -> bool:
    """Whether this is the process that speaks and writes: the only one, or rank 0 under a launcher."""
    return os.environ.get("RANK", "0") == "0"
