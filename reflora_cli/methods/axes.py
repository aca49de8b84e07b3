"""The axes of a method that are chosen by a name and have no fields of their own, each an enum."""

from __future__ import annotations

from enum import StrEnum


class Scaling(StrEnum):
    """s in `W + s B A`: alpha / r, or alpha / sqrt(r)."""

    STANDARD = "standard"
    RSLORA = "rslora"


class Place(StrEnum):
    """The places in a transformer's block behind which an adapter may stand, each before the residual sum."""

    ATTENTION = "attention outputs"
    FEED_FORWARD = "feed-forward outputs"
