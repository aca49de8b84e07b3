"""Make rows of many lengths, in batches of many sizes, on which a graph is compared with its model."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from reflora_cli.data.encode import EncodedRow

SHAPES = ((1,), (2,), (7,), (6, 6), (1, 1), (2, 1), (9, 3), (1 << 30,), (3, 1 << 30, 1, 2, 17), (11, 5, 8))
"""Lengths of the rows of each batch: one, two and more rows, padded or not, up to the longest possible."""


def batches_of_shapes(rows: Sequence[EncodedRow], special: Collection[int], longest: int) -> list[list[EncodedRow]]:
    """Return batches of the lengths in `SHAPES`, none beyond `longest`, made of the tokens of some rows.

    special: tokens that are not to be repeated inside a row.
    """
    shapes = dict.fromkeys(tuple(min(length, longest) for length in shape) for shape in SHAPES)
    ordinary = [token for row in rows for token in row.input_ids.tolist() if token not in special]
    stream = np.array(ordinary or [int(rows[0].input_ids[0])], dtype=np.int32)
    return [
        [row_of_length(rows[0], np.roll(stream, -index), length) for index, length in enumerate(shape)]
        for shape in shapes
    ]


def row_of_length(model: EncodedRow, stream: np.ndarray, length: int) -> EncodedRow:
    """Return a row that begins and ends as `model` does, where classifiers look, with tokens of `stream` between.

    Its second half is a second text if `model` has one.
    """
    ids = np.resize(stream, length)
    ids[0], ids[-1] = model.input_ids[0], model.input_ids[-1]
    kinds = model.token_type_ids
    if kinds is None:
        return EncodedRow(ids, None, model.label)
    second = int(kinds.max())
    return EncodedRow(
        ids, np.where(np.arange(length) < length / 2, int(kinds[0]), second).astype(np.int32), model.label
    )


def described(rows: Sequence[EncodedRow]) -> str:
    """Return the size and the lengths of a batch, for a message."""
    lengths = [len(row.input_ids) for row in rows]
    tokens = str(lengths[0]) if len(set(lengths)) == 1 else f"{min(lengths)} to {max(lengths)}"
    return f"{len(rows)} rows of {tokens} tokens" if len(rows) > 1 else f"a row of {tokens} tokens"
