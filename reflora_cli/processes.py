"""Which process this is, before anything heavy is imported."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Whether this is the process that speaks and writes: the only one, or rank 0 under a launcher."""
    return os.environ.get("RANK", "0") == "0"
