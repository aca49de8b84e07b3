"""Read candidates after their prompts: in two passes, or in the way that every causal model allows.

`tree.py` has a faster one. A way returns the body's output before every token that is asked about: for each row the
tokens that its candidates share, then candidate by candidate the tokens in which they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from reflora_cli.data.batches import cut
from reflora_cli.data.encode_prompts import common_length
from reflora_cli.data.pad import Padding, pad, pad_left, pad_right
from reflora_cli.model.base import Base
from reflora_cli.model.language import cache_of, hidden_states
from reflora_cli.model.precision import Compute

SHORTEST_PREFIX = 8
"""The least number of common tokens at the beginning of rows that is worth an extra pass over them."""
SHARED = -1
"""The candidate's number of a token that all candidates of a row share."""
Key = tuple[int, int, int]
"""(row, candidate, place among the tokens that are asked about), by which the states of a way are ordered."""


@dataclass(frozen=True)
class Branches:
    """One row's candidates as tokens: a common `stem`, whose last `shared` tokens belong to the answer, and the tails.

    Every tail has at least one token.
    """

    stem: list[int]
    shared: int
    tails: list[list[int]]
    cut: bool

    @property
    def answer(self) -> list[int]:
        """The tokens of the stem that belong to the answer."""
        return self.stem[len(self.stem) - self.shared :]


@dataclass(frozen=True)
class Reader:
    """The model that reads. window: the number of places that its attention reaches back, padding included."""

    base: Base
    compute: Compute
    padding: Padding
    window: int

    def body(self, ids: Tensor, mask: Tensor, cache: Any, *, use_cache: bool) -> Any:
        """Return the body's output for ids [n, length]; the mask [n, more] begins with the tokens in the cache."""
        inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": places(mask)[:, -ids.shape[1] :]}
        placed = {name: tensor.to(self.compute.device) for name, tensor in inputs.items()}
        return hidden_states(self.base.model, **placed, cache=cache, use_cache=use_cache)

    @property
    def fill(self) -> int:
        return int(self.base.tokenizer.pad_token_id)


class Way(Protocol):
    """A function from rows to the body's output [tokens, width] before every token that is asked about."""

    def __call__(self, reader: Reader, rows: Sequence[Branches]) -> Tensor: ...


def tokens_asked(rows: Sequence[Branches]) -> list[int]:
    """Return the tokens that are asked about, in the order of the states that a way returns."""
    return [token for row in rows for part in (row.answer, *row.tails) for token in part]


def after_common_beginning(reader: Reader, rows: Sequence[Branches]) -> Tensor:
    """Read the tokens with which all rows begin once, then the rest of the stems, then the tails on the stems' cache.

    If the rests differ in length, padding stands between the common beginning and a shorter rest.
    """
    longest = max(len(row.stem) for row in rows) + max(len(tail) - 1 for row in rows for tail in row.tails)
    prefix, cache = begin_together(reader, rows) if longest <= reader.window else ([], None)
    return stems_then_tails(reader, rows, prefix, cache)


def begin_together(reader: Reader, rows: Sequence[Branches]) -> tuple[list[int], Any]:
    """Return the tokens with which all rows begin, and their keys and values for every row; no tokens and None where
    they are too few.
    """
    prefix = common_prefix(rows)
    if not prefix:
        return [], None
    ids = torch.tensor([prefix])
    cache = cache_of(reader.body(ids, torch.ones_like(ids), None, use_cache=True))
    cache.batch_repeat_interleave(len(rows))
    return prefix, cache


def stems_then_tails(reader: Reader, rows: Sequence[Branches], prefix: Sequence[int] = (), cache: Any = None) -> Tensor:
    """Read every stem once, which gives the first differing tokens too, then the rest of longer tails on its cache.

    prefix: the number of tokens at the beginning of all stems that are in the cache already.
    """
    ids, mask = pad_left([row.stem[len(prefix) :] for row in rows], reader.fill)
    mask = torch.cat([torch.ones(len(rows), len(prefix), dtype=mask.dtype), mask], dim=1)
    longer = [(row, index) for row, own in enumerate(rows) for index, tail in enumerate(own.tails) if len(tail) > 1]
    output = reader.body(ids, mask, cache, use_cache=cache is not None or bool(longer))
    asked: dict[Key, tuple[int, int]] = {}
    for index, row in enumerate(rows):
        last = ids.shape[1] - 1
        asked |= {(index, SHARED, i): (index, last - row.shared + i) for i in range(row.shared)}
        asked |= {(index, candidate, 0): (index, last) for candidate in range(len(row.tails))}
    found = [states_at(output, list(asked.values()))]
    if longer:
        keys, states = read_tails(reader, rows, longer, cache_of(output), mask)
        asked |= dict.fromkeys(keys, (0, 0))
        found.append(states)
    keys = list(asked)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return torch.cat(found)[order]


def read_tails(
    reader: Reader, rows: Sequence[Branches], longer: Sequence[tuple[int, int]], cache: Any, mask: Tensor
) -> tuple[list[Key], Tensor]:
    """Return the states before the tails' tokens but their first. longer: (row, candidate) of the tails with more
    than one.
    """
    tails = [rows[row].tails[index] for row, index in longer]
    owners = torch.tensor([row for row, _ in longer])
    ids, own_mask = pad_right([tail[:-1] for tail in tails], reader.fill)
    cache.batch_select_indices(owners.to(reader.compute.device))
    output = reader.body(ids, torch.cat([mask[owners], own_mask], dim=1), cache, use_cache=True)
    asked = {(*longer[index], i + 1): (index, i) for index, tail in enumerate(tails) for i in range(len(tail) - 1)}
    return list(asked), states_at(output, list(asked.values()))


def whole_texts(reader: Reader, rows: Sequence[Branches]) -> Tensor:
    """Read every candidate with its whole prompt, without a cache, in batches of as many texts as there are rows."""
    texts = [(index, candidate) for index, row in enumerate(rows) for candidate in range(len(row.tails))]
    tokens = [rows[index].stem + rows[index].tails[candidate][:-1] for index, candidate in texts]
    order = sorted(range(len(texts)), key=lambda text: len(tokens[text]))
    kind = (lambda text: len(tokens[text])) if reader.padding is Padding.NONE else None
    keys: list[Key] = []
    found: list[Tensor] = []
    for batch in cut(order, len(rows), kind):
        output = reader.body(*pad([tokens[text] for text in batch], reader.fill, reader.padding), None, use_cache=False)
        asked: dict[Key, tuple[int, int]] = {}
        for place, (index, candidate) in enumerate(texts[text] for text in batch):
            row = rows[index]
            last = len(row.stem) - 1
            shared = row.shared if candidate == 0 else 0
            asked |= {(index, SHARED, i): (place, last - row.shared + i) for i in range(shared)}
            asked |= {(index, candidate, i): (place, last + i) for i in range(len(row.tails[candidate]))}
        keys += asked
        found.append(states_at(output, list(asked.values())))
    return torch.cat(found)[sorted(range(len(keys)), key=keys.__getitem__)]


def states_at(output: Any, asked: Sequence[tuple[int, int]]) -> Tensor:
    """Return the states [k, width] of a body's output at the places `asked`, pairs of a row and a place in the row."""
    hidden: Tensor = output.last_hidden_state
    rows, at = (torch.tensor(column, device=hidden.device) for column in zip(*asked, strict=True))
    return hidden[rows, at]


def common_prefix(rows: Sequence[Branches]) -> list[int]:
    """Return the tokens with which all rows begin, as the instruction of a task is the same in every row.

    It is empty if to read them apart would save nothing. The tokens that are asked about are not part of it.
    """
    first = rows[0].stem
    length = min(common_length(first, row.stem) for row in rows)
    length = min(length, *(len(row.stem) - row.shared - 1 for row in rows))
    return first[:length] if len(rows) > 1 and length >= SHORTEST_PREFIX else []


def places(mask: Tensor) -> Tensor:
    """Return position ids [n, length] for a mask: each row counts from its first token that is not padding."""
    return (mask.cumsum(dim=1) - 1).clamp_min(0)
