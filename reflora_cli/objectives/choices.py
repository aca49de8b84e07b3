"""The protocol `choices`: the candidate with the largest log-likelihood after the prompt.

As EleutherAI's lm-evaluation-harness scores multiple choice: the sum of the candidate's token log-likelihoods, and the
same per character. Whitespace at the end of a prompt counts as the beginning of the candidates, and a text too long for
the model loses its beginning, as there.

The tokens with which all rows of a batch begin (a task's instruction) go through the model once, for all of them. All
candidates of a row begin with the same tokens too, up to the first in which they differ. Prompt and common beginning go
through the model once; that gives the first differing token of every candidate too. What then is left of longer
candidates goes through the model a second time, on the cached keys and values of the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from reflora_cli.data.encode_prompts import common_length, token_ids
from reflora_cli.data.pad import pad_left, pad_right
from reflora_cli.model.base import Base, positions
from reflora_cli.model.language import cache_of, hidden_states
from reflora_cli.model.precision import Compute, precision
from reflora_cli.objectives.prediction import Prediction, Scorer
from reflora_cli.objectives.token_loss import token_log_likelihoods
from reflora_cli.tasks.base import PromptExample, PromptTask

SHORTEST_PREFIX = 8
"""Tokens that rows must begin with in common for an extra pass over them to be worth it."""


@dataclass(frozen=True)
class Branches:
    """One row's candidates as tokens: a common `stem`, of which the last `shared` belong to the answer, and the tails.

    Every tail has at least one token.
    """

    stem: list[int]
    shared: int
    tails: list[list[int]]
    cut: bool


@final
class Choices(Scorer):
    """Log-likelihoods of candidates, batched."""

    def __init__(self, base: Base, compute: Compute) -> None:
        self.base, self.compute = base, compute
        self.limit = positions(base)
        # Attention windows count padding too: none may stand between a common beginning and what follows it.
        window = getattr(base.model.config.get_text_config(decoder=True), "sliding_window", None)
        self.window = window or self.limit

    def settings(self) -> dict[str, object]:
        return {"protocol": "choices"}

    def predict(self, task: PromptTask, examples: Sequence[PromptExample]) -> list[Prediction]:
        rows = self.branches(examples)
        sums = self.log_likelihoods(rows)
        return [prediction(example, own, row.cut) for example, row, own in zip(examples, rows, sums, strict=True)]

    def branches(self, examples: Sequence[PromptExample]) -> list[Branches]:
        """Every row's candidates as tokens."""
        tokenizer = self.base.tokenizer
        contexts = token_ids(tokenizer, [example.prompt.rstrip() for example in examples])
        texts = [example.prompt + candidate for example in examples for candidate in example.candidates]
        encoded = iter(token_ids(tokenizer, texts))
        return [
            branches_of(
                context, [without_end(next(encoded), tokenizer.eos_token_id) for _ in row.candidates], self.limit
            )
            for context, row in zip(contexts, examples, strict=True)
        ]

    @torch.no_grad()
    def log_likelihoods(self, rows: Sequence[Branches]) -> list[list[float]]:
        """The candidates' summed log-likelihoods, row by row."""
        with precision(self.compute.device, self.compute.dtype):
            sums, cache, mask = self.read_stems(rows)
            longer = [
                (row, index) for row, own in enumerate(rows) for index, tail in enumerate(own.tails) if len(tail) > 1
            ]
            if longer:
                rest = self.read_tails(rows, longer, cache, mask)
                for (row, index), value in zip(longer, rest, strict=True):
                    sums[row][index] += value
        return sums

    def read_stems(self, rows: Sequence[Branches]) -> tuple[list[list[float]], Any, Tensor]:
        """Log-likelihoods of the common beginnings and of every tail's first token; the cache and its mask."""
        device = self.compute.device
        longest = max(len(row.stem) for row in rows) + max(len(tail) - 1 for row in rows for tail in row.tails)
        prefix = common_prefix(rows) if longest <= self.window else []
        cache = self.read_prefix(prefix, len(rows)) if prefix else None
        ids, mask = pad_left([row.stem[len(prefix) :] for row in rows], self.base.tokenizer.pad_token_id)
        mask = torch.cat([torch.ones(len(rows), len(prefix), dtype=mask.dtype), mask], dim=1).to(device)
        length = ids.shape[1]
        needs_cache = cache is not None or any(len(tail) > 1 for row in rows for tail in row.tails)
        inputs = {"input_ids": ids.to(device), "attention_mask": mask, "position_ids": places(mask)[:, -length:]}
        output = hidden_states(self.base.model, **inputs, cache=cache, use_cache=needs_cache)
        asked: list[tuple[int, int, int]] = []
        for index, row in enumerate(rows):
            begin = length - row.shared
            asked += [(index, begin + i - 1, token) for i, token in enumerate(row.stem[len(row.stem) - row.shared :])]
            asked += [(index, length - 1, tail[0]) for tail in row.tails]
        found = iter(self.ask(output.last_hidden_state, asked))
        sums = []
        for row in rows:
            common = sum(next(found) for _ in range(row.shared))
            sums.append([common + next(found) for _ in row.tails])
        return sums, cache_of(output) if needs_cache else None, mask

    def read_prefix(self, prefix: Sequence[int], count: int) -> Any:
        """The cache of tokens with which all rows begin, read once, for `count` rows."""
        ids = torch.tensor([prefix], device=self.compute.device)
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "position_ids": places(torch.ones_like(ids)),
        }
        cache = cache_of(hidden_states(self.base.model, **inputs, use_cache=True))
        cache.batch_repeat_interleave(count)
        return cache

    def read_tails(
        self, rows: Sequence[Branches], longer: Sequence[tuple[int, int]], cache: Any, mask: Tensor
    ) -> list[float]:
        """Log-likelihoods of the tails after their first tokens. longer: (row, candidate) of those that have more."""
        device = self.compute.device
        tails = [rows[row].tails[index] for row, index in longer]
        owners = torch.tensor([row for row, _ in longer], device=device)
        ids, own_mask = pad_right([tail[:-1] for tail in tails], self.base.tokenizer.pad_token_id)
        whole = torch.cat([mask[owners], own_mask.to(device)], dim=1)
        cache.batch_select_indices(owners)
        at = places(whole)[:, -ids.shape[1] :]
        inputs = {"input_ids": ids.to(device), "attention_mask": whole, "position_ids": at}
        output = hidden_states(self.base.model, **inputs, cache=cache, use_cache=True)
        asked = [(index, i, token) for index, tail in enumerate(tails) for i, token in enumerate(tail[1:])]
        found = iter(self.ask(output.last_hidden_state, asked))
        return [sum(next(found) for _ in tail[1:]) for tail in tails]

    def ask(self, hidden: Tensor, asked: Sequence[tuple[int, int, int]]) -> list[float]:
        """Log-likelihoods of tokens. asked: (row, place of the token before it, token)."""
        rows, at, tokens = (torch.tensor(column, device=hidden.device) for column in zip(*asked, strict=True))
        values: list[float] = token_log_likelihoods(self.base.model, hidden[rows, at], tokens).tolist()
        return values


def common_prefix(rows: Sequence[Branches]) -> list[int]:
    """The tokens with which all rows begin: a task's instruction is the same in every row.

    Empty where reading them apart would save nothing. What is asked about comes behind them.
    """
    first = rows[0].stem
    length = min(common_length(first, row.stem) for row in rows)
    length = min(length, *(len(row.stem) - row.shared - 1 for row in rows))
    return first[:length] if len(rows) > 1 and length >= SHORTEST_PREFIX else []


def branches_of(context: list[int], texts: list[list[int]], limit: int) -> Branches:
    """One row's candidates. context: the prompt's tokens; texts: prompt and candidate; limit: the model's positions."""
    begin = min(len(context), *(common_length(context, text) for text in texts))
    stem = min(common_length(texts[0], text) for text in texts)
    # Every candidate needs a token of its own, also one with which another begins.
    stem = min(stem, *(len(text) - 1 for text in texts))
    excess = max(0, max(map(len, texts)) - 1 - limit)
    kept = texts[0][min(excess, stem - 1) : stem]
    return Branches(kept, min(stem - begin, len(kept) - 1), [text[stem:] for text in texts], excess > 0)


def without_end(ids: list[int], end: int) -> list[int]:
    """The ids without an end token that the tokenizer adds to every text."""
    return ids[:-1] if ids[-1:] == [end] else ids


def places(mask: Tensor) -> Tensor:
    """Position ids [n, length] of masked tokens: every row counts from its first token that is not padding."""
    return (mask.cumsum(dim=1) - 1).clamp_min(0)


def prediction(example: PromptExample, sums: Sequence[float], cut: bool) -> Prediction:
    """The candidate with the largest sum, and that with the largest sum per character."""
    lengths = [len(candidate.lstrip()) for candidate in example.candidates]
    best = max(range(len(sums)), key=lambda index: sums[index])
    best_by_character = max(range(len(sums)), key=lambda index: sums[index] / max(1, lengths[index]))
    scores = dict(zip(example.labels, sums, strict=True))
    return Prediction(
        example.label, example.labels[best], scores=scores, by_character=example.labels[best_by_character], cut=cut
    )
