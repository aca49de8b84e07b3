"""Turn rows of unequal length into one tensor and a mask.

Padding is masked by length, never by token id, since the pad token may also be an ordinary token.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TokenIds = NDArray[np.int32]
"""A row's tokens. Arrays, not lists: a data set's rows are views of one array, a tenth of the memory, and batches of
them are made in a tenth of the time."""


class Padding(StrEnum):
    """Where rows of unequal length are padded.

    NONE: nowhere; a batch holds rows of one length only. ALONE: nowhere; a batch is one row.
    """

    RIGHT = "right"
    LEFT = "left"
    NONE = "none"
    ALONE = "alone"


def pad(rows: Sequence[TokenIds | list[int]], fill: int, padding: Padding, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, int64 [n, length]. With NONE and ALONE the rows must be of equal length."""
    match padding:
        case Padding.RIGHT:
            return pad_right(rows, fill, multiple)
        case Padding.LEFT:
            return pad_left(rows, fill, multiple)
        case Padding.NONE | Padding.ALONE:
            return pad_right(rows, fill)


def pad_right(rows: Sequence[TokenIds | list[int]], fill: int, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, int64 [n, length]; all rows begin at the first place.

    length is that of the longest row, rounded up to a multiple of `multiple`.
    """
    lengths = np.array([len(row) for row in rows])
    length = -(-int(lengths.max()) // multiple) * multiple
    ids = np.full((len(rows), length), fill, dtype=np.int64)
    for own, row in zip(ids, rows, strict=True):
        own[: len(row)] = row
    mask = np.arange(length) < lengths[:, None]
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def pad_left(rows: Sequence[TokenIds | list[int]], fill: int, multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask as `pad_right` does, except that all rows end at the last place."""
    ids, mask = pad_right([row[::-1] for row in rows], fill, multiple)
    return ids.flip(1), mask.flip(1)
