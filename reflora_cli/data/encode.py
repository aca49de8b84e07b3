"""Examples -> token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reflora_cli.data.token_cache import Columns, flat, remembered, unflat
from reflora_cli.tasks.base import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 1000
"""Rows per tokenizer call: large enough for its threads, small enough to keep memory flat."""


@dataclass(frozen=True)
class EncodedRow:
    """One row as the model reads it, unpadded; the label is a class id or a real value."""

    input_ids: list[int]
    token_type_ids: list[int] | None
    label: float


def encode(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], max_length: int) -> list[EncodedRow]:
    """Tokenize one or two texts per row, cut to `max_length` tokens (the longer text of a pair first)."""
    columns = remembered(
        tokenizer, ("texts", max_length), examples, lambda: as_columns(tokenize(tokenizer, examples, max_length))
    )
    ids = unflat(columns["ids"], columns["lengths"])
    types = unflat(columns["types"], columns["lengths"]) if "types" in columns else [None] * len(ids)
    return [EncodedRow(own, kinds, row.label) for own, kinds, row in zip(ids, types, examples, strict=True)]


def as_columns(rows: Sequence[EncodedRow]) -> Columns:
    """The rows without their labels."""
    ids, lengths = flat([row.input_ids for row in rows])
    columns: Columns = {"ids": ids, "lengths": lengths}
    if all(row.token_type_ids is not None for row in rows):
        columns["types"], _ = flat([row.token_type_ids or [] for row in rows])
    return columns


def tokenize(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], max_length: int) -> list[EncodedRow]:
    rows: list[EncodedRow] = []
    for start in range(0, len(examples), BATCH):
        chunk = examples[start : start + BATCH]
        columns = [list(column) for column in zip(*(example.texts for example in chunk), strict=True)]
        encoded = tokenizer(*columns, truncation=True, max_length=max_length, return_attention_mask=False)
        types = encoded.get("token_type_ids") or [None] * len(chunk)
        rows += [
            EncodedRow(ids, kinds, example.label)
            for ids, kinds, example in zip(encoded["input_ids"], types, chunk, strict=True)
        ]
    return rows
