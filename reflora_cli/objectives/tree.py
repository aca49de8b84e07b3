"""Read a row in one pass, as a tree: its prompt once, and its candidates beside each other as branches.

In the tensor the tokens of the candidates stand one after the other behind the stem. A mask lets a token see the stem
and the tokens before it in its own candidate, and its position counts from the stem, so that it is computed as if the
other candidates were not there (tree attention, as in SpecInfer, Miao et al. 2023, arXiv 2305.09781). Nothing of the
stems' keys and values is copied for a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reflora_cli.data.pad import pad_right
from reflora_cli.model.language import hidden_states
from reflora_cli.objectives.reading import Branches, Reader, begin_together, states_at

STEM = 0
"""The branch of a stem's tokens; those of the tails are counted from one."""


def pays(reader: Reader, rows: Sequence[Branches]) -> bool:
    """Whether one pass over the rows reads no more tokens than two, padding included, and none beyond the model's
    window, in whose places all candidates of a row count.
    """
    longest = max(len(layout(row)) for row in rows)
    longer = [len(tail) - 1 for row in rows for tail in row.tails if len(tail) > 1]
    apart = len(rows) * max(len(row.stem) for row in rows) + len(longer) * max(longer, default=0)
    return bool(longer) and longest <= reader.window and len(rows) * longest <= apart


def in_one_pass(reader: Reader, rows: Sequence[Branches]) -> Tensor:
    """Read the tokens with which all rows begin once, then every row's rest with all of its tails."""
    prefix, cache = begin_together(reader, rows)
    begin = len(prefix)
    ids, _ = pad_right([layout(row)[begin:] for row in rows], reader.fill)
    positions, _ = pad_right([places(row)[begin:] for row in rows], 0)
    branches, _ = pad_right([branch_of_each(row)[begin:] for row in rows], STEM)
    inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": attention(reader, branches, begin)}
    placed = {name: tensor.to(reader.compute.device) for name, tensor in inputs.items()}
    output = hidden_states(reader.base.model, **placed, cache=cache, use_cache=cache is not None)
    return states_at(output, [(index, place - begin) for index, row in enumerate(rows) for place in asked_at(row)])


def layout(row: Branches) -> list[int]:
    """Return the tokens of a row: the stem, then every tail but for its last token, which nothing follows."""
    return [*row.stem, *(token for tail in row.tails for token in tail[:-1])]


def places(row: Branches) -> list[int]:
    """Return the position of every token of the layout in its own text."""
    stem = len(row.stem)
    return [*range(stem), *(place for tail in row.tails for place in range(stem, stem + len(tail) - 1))]


def branch_of_each(row: Branches) -> list[int]:
    """Return the branch of every token of the layout."""
    return [STEM] * len(row.stem) + [
        number for number, tail in enumerate(row.tails, STEM + 1) for _ in range(len(tail) - 1)
    ]


def asked_at(row: Branches) -> list[int]:
    """Return the places in the layout before every token that is asked about: those that all candidates share, then
    candidate by candidate the others.
    """
    last = len(row.stem) - 1
    found, begin = list(range(last - row.shared, last)), len(row.stem)
    for tail in row.tails:
        found += [last, *range(begin, begin + len(tail) - 1)]
        begin += len(tail) - 1
    return found


def attention(reader: Reader, branches: Tensor, cached: int) -> Tensor:
    """Return the mask [n, 1, length, cached + length] of what each token sees, as the model's attention takes it.

    branches: [n, length], those of the tokens behind `cached` ones, which all see. Padding counts as the stem's: it
    stands behind all other tokens, so that none sees it.
    """
    count, length = branches.shape
    seen = (branches[:, None] == STEM) | (branches[:, :, None] == branches[:, None])
    seen &= torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.cat([torch.ones(count, length, cached, dtype=torch.bool), seen], dim=2)[:, None]
    config: Any = reader.base.model.config.get_text_config(decoder=True)
    if config._attn_implementation == "sdpa":
        return mask
    dtype = reader.compute.dtype
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
