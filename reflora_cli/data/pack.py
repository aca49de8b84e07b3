"""Several rows in one sequence, so that a batch of unequal rows has hardly any padding.

Rows do not see each other: every row's positions begin at 0, and from that transformers masks attention across rows.
The rows of a batch stay together, so that packing changes how much is computed, not what.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from reflora_cli.data.encode_prompts import PromptRow, supervision
from reflora_cli.data.pad import pad_right


def pack_prompts(rows: Sequence[PromptRow], pad_token: int, multiple: int = 1) -> dict[str, Tensor]:
    """input_ids, position_ids [n, length], and `supervision`.

    No sequence is longer than the longest row, but for `multiple`, of which the length shall be one.
    """
    packed = [[rows[index] for index in sequence] for sequence in first_fit([len(row.input_ids) for row in rows])]
    tokens = [np.concatenate([row.input_ids for row in own]) for own in packed]
    counted = [np.concatenate([np.arange(len(row.input_ids)) for row in own]) for own in packed]
    ids, _ = pad_right(tokens, pad_token, multiple)
    places, _ = pad_right(counted, 0, multiple)  # every place of padding is at position 0, and so a row of its own
    return {"input_ids": ids, "position_ids": places, **supervision(packed, ids.shape[1])}


def first_fit(lengths: Sequence[int]) -> list[list[int]]:
    """Indices by sequence: the longest first, each into the first sequence that has room for it."""
    capacity = max(lengths)
    sequences: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = next((n for n, left in enumerate(room) if left >= lengths[index]), len(room))
        if place == len(room):
            sequences.append([])
            room.append(capacity)
        sequences[place].append(index)
        room[place] -= lengths[index]
    return sequences
