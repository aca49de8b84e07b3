"""Name what of a run can be published; torch is not needed."""

from __future__ import annotations

from enum import StrEnum


class Publication(StrEnum):
    """The adapter of a run, or the model with it merged in."""

    ADAPTER = "adapter"
    MERGED = "merged"
