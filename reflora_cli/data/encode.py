"""Turn Examples into token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reflora_cli.data.pad import TokenIds
from reflora_cli.data.token_cache import Columns, as_array, joined, remembered, rows_of
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.tasks.examples import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1000
"""Rows per tokenizer call: large enough for its threads, small enough to keep memory flat."""


@dataclass(frozen=True, eq=False)
class EncodedRow:
    """One row as the model reads it, unpadded; the label is that of its Example."""

    input_ids: TokenIds
    token_type_ids: TokenIds | None
    label: float | tuple[float, ...]


def encode(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], max_length: int) -> list[EncodedRow]:
    """Tokenize one or two texts per row, cut to `max_length` tokens (the longer text of a pair first)."""
    columns = remembered(tokenizer, ("texts", max_length), examples, lambda: tokenize(tokenizer, examples, max_length))
    ids = rows_of(columns["ids"], columns["lengths"])
    types = rows_of(columns["types"], columns["lengths"]) if "types" in columns else [None] * len(ids)
    return [EncodedRow(own, kinds, row.label) for own, kinds, row in zip(ids, types, examples, strict=True)]


def refuse_short(tokenizer: PreTrainedTokenizerBase, texts: int, max_length: int) -> None:
    """Raises InputError for a `max_length` that leaves no token of a text, or only one.

    Attention over one token is constant, so nothing in it could be trained.
    """
    special = tokenizer.num_special_tokens_to_add(pair=texts == 2)
    least = max(2, special + texts)
    if max_length < least:
        what = "max_length leaves nothing of the texts"
        expected = f"at least {least}; {special} of a row's tokens are special"
        raise InputError(Problem(what, "task.max_length", str(max_length), expected, "raise task.max_length"))


def tokenize(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], max_length: int) -> Columns:
    """Return `ids`, their `lengths` and, where the model has them, token `types`."""
    parts: list[Columns] = []
    for start in range(0, len(examples), BATCH):
        chunk = examples[start : start + BATCH]
        texts = [list(column) for column in zip(*(example.texts for example in chunk), strict=True)]
        encoded = tokenizer(*texts, truncation=True, max_length=max_length, return_attention_mask=False)
        # A row without any token, of an empty text and a tokenizer that adds none, is one token of padding.
        ids = [row or [tokenizer.pad_token_id] for row in encoded["input_ids"]]
        part: Columns = {"ids": as_array(ids), "lengths": np.array([len(row) for row in ids], dtype=np.int32)}
        if "token_type_ids" in encoded:
            part["types"] = as_array([row or [tokenizer.pad_token_type_id] for row in encoded["token_type_ids"]])
        parts.append(part)
    return joined(parts)
