"""Put several rows into one sequence, so that a batch of unequal rows has hardly any padding.

Rows do not see each other: every row's positions begin at 0, and transformers derives the mask between rows from that.
The rows of a batch stay together, so packing changes how much is computed, not the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from reflora_cli.data.encode_prompts import PromptRow, supervision
from reflora_cli.data.pad import pad_right


def pack_prompts(rows: Sequence[PromptRow], pad_token: int, multiple: int = 1) -> dict[str, Tensor]:
    """Return input_ids and position_ids [n, length], and what `supervision` returns.

    No sequence is longer than the longest row, rounded up to a multiple of `multiple`.
    """
    packed = [[rows[index] for index in sequence] for sequence in first_fit([len(row.input_ids) for row in rows])]
    tokens = [np.concatenate([row.input_ids for row in own]) for own in packed]
    counted = [np.concatenate([np.arange(len(row.input_ids)) for row in own]) for own in packed]
    ids, _ = pad_right(tokens, pad_token, multiple)
    places, _ = pad_right(counted, 0, multiple)  # every place of padding is at position 0, and so a row of its own
    return {"input_ids": ids, "position_ids": places, **supervision(packed, ids.shape[1])}


def first_fit(lengths: Sequence[int]) -> list[list[int]]:
    """Assign rows to sequences, the longest row first, each to the first sequence that has room; returns indices by
    sequence.
    """
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
