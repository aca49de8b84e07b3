"""Turn PromptExamples into token ids, and find the place where the answer begins.

Prompt and answer are tokenized together, as one text: a token may reach across the border, and what is trained on must
be what the model reads when it is asked. The answer begins with the first token in which the whole differs from
the prompt alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from reflora_cli.data.encode import BATCH
from reflora_cli.data.pad import TokenIds, pad_right
from reflora_cli.data.token_cache import Columns, as_array, joined, remembered, rows_of
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.tasks.examples import PromptExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_DROPPED = 0.05
"""The largest accepted share of rows without any answer left; beyond it `max_length` is taken for a mistake."""


Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class PromptRow:
    """One row as the model reads it, unpadded.

    spans: the places (begin, end) of the tokens that are to be predicted, apart and in order; none begins at 0.
    """

    input_ids: TokenIds
    spans: Spans

    @property
    def weight(self) -> int:
        """The number of supervised tokens."""
        return sum(end - begin for begin, end in self.spans)


def from_place(ids: TokenIds, begin: int) -> PromptRow:
    """Return the row whose tokens from `begin` on are to be predicted."""
    return PromptRow(ids, ((begin, len(ids)),))


@dataclass(frozen=True)
class EncodedPrompts:
    """Rows ready for training, and the number of rows that were dropped because all that is learned was cut off."""

    rows: list[PromptRow]
    dropped: int


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[PromptExample], max_length: int, *, train_on_prompt: bool
) -> EncodedPrompts:
    """Tokenize and cut to `max_length` tokens, end token included.

    The answer and the end token are supervised, with `train_on_prompt` everything but the first token. Raises
    InputError when more than a twentieth of the rows have no answer left.
    """
    columns = remembered(
        tokenizer, ("prompts", max_length), examples, lambda: tokenize(tokenizer, examples, max_length)
    )
    texts = zip(rows_of(columns["ids"], columns["lengths"]), columns["borders"].tolist(), strict=True)
    rows = [from_place(ids, 1 if train_on_prompt else border) for ids, border in texts]
    refuse_cut_answers(len(examples) - len(rows), len(examples), max_length)
    return EncodedPrompts(rows, len(examples) - len(rows))


def tokenize(tokenizer: PreTrainedTokenizerBase, examples: Sequence[PromptExample], max_length: int) -> Columns:
    """Return `ids`, their `lengths` and the `borders` where answers begin, of the rows that keep a part of their
    answer.
    """
    parts: list[Columns] = []
    for start in range(0, len(examples), BATCH):
        chunk = examples[start : start + BATCH]
        prompts = token_ids(tokenizer, [example.prompt for example in chunk])
        texts = token_ids(tokenizer, [example.prompt + example.answer for example in chunk])
        rows = []
        for prompt, text in zip(prompts, texts, strict=True):
            border, ids = max(1, common_length(prompt, text)), ended(text, tokenizer.eos_token_id)[:max_length]
            if border < len(ids):
                rows.append((border, ids))
        borders, lengths = (np.array(own, dtype=np.int32) for own in ([b for b, _ in rows], [len(i) for _, i in rows]))
        parts.append({"ids": as_array([ids for _, ids in rows]), "lengths": lengths, "borders": borders})
    return joined(parts)


def refuse_cut_answers(dropped: int, rows: int, max_length: int) -> None:
    if dropped > MOST_DROPPED * rows:
        problem = Problem(
            "too many rows have a prompt that leaves no room for an answer",
            where="task.max_length",
            found=f"{dropped:,} of {rows:,} rows with a prompt of {max_length} tokens or more",
            expected=f"at most {MOST_DROPPED:.0%} of them",
            remedy="raise task.max_length",
        )
        raise InputError(problem)


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of whole texts, with the special tokens that the tokenizer puts around a text."""
    ids: list[list[int]] = tokenizer(list(texts), return_attention_mask=False, verbose=False)["input_ids"]
    return ids


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of tokens with which both sequences begin."""
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def ended(ids: list[int], end: int) -> list[int]:
    """Return the ids with the end token, which some tokenizers have put there already."""
    return ids if ids[-1:] == [end] else [*ids, end]


def collate_prompts(rows: Sequence[PromptRow], pad_token: int, multiple: int = 1) -> dict[str, Tensor]:
    """Pad on the right: input_ids, attention_mask [n, length], length a multiple of `multiple`, and `supervision`."""
    ids, mask = pad_right([row.input_ids for row in rows], pad_token, multiple)
    return {"input_ids": ids, "attention_mask": mask, **supervision([[row] for row in rows], ids.shape[1])}


def supervision(sequences: Sequence[Sequence[PromptRow]], length: int) -> dict[str, Tensor]:
    """Return the tokens to learn from sequences, each of one or several rows, that are padded to `length`.

    supervised: the places [k], in the flattened batch, of the tokens whose next token is to be predicted. targets: the
    next tokens [k]. They are computed here, because finding them on a GPU would make the host wait.
    """
    places, targets = [], []
    for index, rows in enumerate(sequences):
        offset = index * length
        for row in rows:
            for begin, end in row.spans:
                places.append(np.arange(offset + begin - 1, offset + end - 1))
                targets.append(row.input_ids[begin:end].astype(np.int64))
            offset += len(row.input_ids)
    return {
        "supervised": torch.from_numpy(np.concatenate(places)),
        "targets": torch.from_numpy(np.concatenate(targets)),
    }
