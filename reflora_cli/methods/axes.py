"""The axes of a method that are chosen by a name and have no fields of their own, each an enum."""

from __future__ import annotations

from enum import StrEnum


class Scaling(StrEnum):
    """s in `W + s B A`: alpha / r, or alpha / sqrt(r)."""

    STANDARD = "standard"
    RSLORA = "rslora"
