"""The protocol `choices`: the candidate with the largest log-likelihood after the prompt.

As EleutherAI's lm-evaluation-harness scores multiple choice: the sum of the candidate's token log-likelihoods, and the
same per character. Whitespace at the end of a prompt counts as the beginning of the candidates, and a text too long for
the model loses its beginning, as there.

The tokens with which all rows of a batch begin (a task's instruction) go through the model once, for all of them. All
candidates of a row begin with the same tokens too, up to the first in which they differ. Prompt and common beginning go
through the model once, and what is left of the candidates beside each other in the same pass (`tree.py`). Where a model
takes no mask for that, it goes through the model a second time, on the cached keys and values of the first; where a
cache cannot be divided so, or padding inside a text changes what a model reads, less is shared (`reading.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from reflora_cli.data.encode_prompts import common_length, token_ids
from reflora_cli.data.pad import Padding
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.base import Base, positions
from reflora_cli.model.precision import Compute, precision
from reflora_cli.objectives.causal import trial_tokens
from reflora_cli.objectives.invariance import FOREIGN, LONG, SHORT, agree, evaluating, readable
from reflora_cli.objectives.reading import (
    SHORTEST_PREFIX,
    Branches,
    Reader,
    Way,
    after_common_beginning,
    stems_then_tails,
    tokens_asked,
    whole_texts,
)
from reflora_cli.objectives.score_batches import READ, score_batches
from reflora_cli.objectives.scorer import Scorer
from reflora_cli.objectives.token_loss import token_log_likelihoods
from reflora_cli.objectives.tree import in_one_pass, pays
from reflora_cli.tasks.answers import Prediction
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.examples import PromptExample

WINDOWS = ("sliding_window", "window_size", "attention_window_size", "attention_chunk_size")
"""Names in configs for the number of places that attention reaches back."""
WAYS: tuple[Way, ...] = (after_common_beginning, stems_then_tails, whole_texts)
"""The ways to read candidates of any length, the fastest first."""


@final
class Choices(Scorer):
    """Log-likelihoods of candidates, in batches. padding: how rows go through the model together without a cache."""

    def __init__(self, base: Base, compute: Compute, padding: Padding = Padding.RIGHT) -> None:
        self.base, self.compute = base, compute
        self.limit = positions(base)
        # Attention windows count padding too: none may stand between a common beginning and what follows it.
        config = base.model.config.get_text_config(decoder=True)
        windows = [getattr(config, name, None) for name in WINDOWS]
        window = min((own - base.reserved for own in windows if isinstance(own, int) and own > 0), default=self.limit)
        self.reader = Reader(base, compute, padding, window)
        self.way, self.has_trees = self.pick_way()

    def pick_way(self) -> tuple[Way, bool]:
        """Return the fastest way whose results are those of whole texts, and whether rows may be read as trees too.

        Raises InputError if not even whole texts can be read.
        """
        rows = self.trial_rows()
        alone = replace(self.reader, padding=Padding.ALONE)
        with evaluating(self.base.model), precision(self.compute.device, self.compute.dtype):
            with readable(self.base):
                expected = torch.cat([whole_texts(alone, [row]) for row in rows])
            ways = (way for way in WAYS if self.finds(way, rows, expected))
            if way := next(ways, None):
                # Virtual tokens, which come later, take no mask of what each token sees.
                is_plain = way is after_common_beginning and self.base.reserved == 0
                return way, is_plain and self.finds(in_one_pass, rows, expected)
        what, where = "candidates cannot be scored together", f"model.name: {self.base.source.name}"
        raise InputError(Problem(what, where, f"a {self.base.model.config.model_type} model"))

    def finds(self, way: Way, rows: Sequence[Branches], expected: Tensor) -> bool:
        """Whether a way can read the rows, with the expected result."""
        with suppress(*FOREIGN):  # a cache that cannot be divided, a mask that is not taken
            return agree(way(self.reader, rows), expected, self.compute.dtype)
        return False

    def trial_rows(self) -> list[Branches]:
        """Return a long row and a short one that begin alike, with one candidate of one token and others of several."""
        tokens = trial_tokens(self.base)
        long, short = tokens[LONG], tokens[SHORT]
        tails = [long[3:6], short[-1:], long[1:3]]
        stem = long[: self.limit - 3]
        branches = Branches(stem, 1, tails, cut=False)
        return [branches, replace(branches, stem=[*stem[:SHORTEST_PREFIX], *stem[-4:]])]

    def settings(self) -> dict[str, object]:
        return {"protocol": "choices"}

    def notes(self) -> list[str]:
        if self.way is after_common_beginning:
            return []
        if self.way is stems_then_tails:
            return ["prompts are computed whole, without a shared beginning: the model counts the padding after it"]
        return [
            "every candidate is computed with its whole prompt: the model's cache cannot be shared among candidates"
        ]

    def predict(self, task: PromptTask, examples: Sequence[PromptExample]) -> list[Prediction]:
        rows = self.branches(examples)
        sums = self.log_likelihoods(rows)
        return [prediction(example, own, row.cut) for example, row, own in zip(examples, rows, sums, strict=True)]

    def batches(self, examples: Sequence[PromptExample], size: int) -> list[list[int]]:
        # The candidate of the most characters stands for all.
        texts = [example.prompt + max(example.candidates, key=len, default="") for example in examples]
        lengths = [min(len(ids), self.limit) for ids in token_ids(self.base.tokenizer, texts)]
        return score_batches(lengths, size, READ)

    def branches(self, examples: Sequence[PromptExample]) -> list[Branches]:
        """Return every row's candidates as tokens."""
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
        """Return the candidates' summed log-likelihoods, row by row."""
        with precision(self.compute.device, self.compute.dtype):
            way = in_one_pass if self.has_trees and pays(self.reader, rows) else self.way
            states = way(self.reader, rows)
            targets = torch.tensor(tokens_asked(rows), device=states.device)
            model: Any = self.base.model
            found = iter(token_log_likelihoods(model, states, targets).tolist())
        sums = []
        for row in rows:
            common = sum(next(found) for _ in range(row.shared))
            sums.append([common + sum(next(found) for _ in tail) for tail in row.tails])
        return sums


def branches_of(context: list[int], texts: list[list[int]], limit: int) -> Branches:
    """Return one row's candidates as tokens. context: the prompt's tokens. texts: prompt and candidate. limit: the
    model's positions.
    """
    begin = min(len(context), *(common_length(context, text) for text in texts))
    stem = min(common_length(texts[0], text) for text in texts)
    # Every candidate needs a token of its own, also one with which another begins.
    stem = min(stem, *(len(text) - 1 for text in texts))
    excess = max(0, max(map(len, texts)) - 1 - limit)
    kept = texts[0][min(excess, stem - 1) : stem]
    return Branches(kept, min(stem - begin, len(kept) - 1), [text[stem:] for text in texts], excess > 0)


def without_end(ids: list[int], end: int) -> list[int]:
    """Return the ids without an end token that the tokenizer adds to every text."""
    return ids[:-1] if ids[-1:] == [end] else ids


def prediction(example: PromptExample, sums: Sequence[float], cut: bool) -> Prediction:
    """Return the prediction: the candidate with the largest sum, and the one with the largest sum per character."""
    lengths = [len(candidate.lstrip()) for candidate in example.candidates]
    best = max(range(len(sums)), key=lambda index: sums[index])
    best_by_character = max(range(len(sums)), key=lambda index: sums[index] / max(1, lengths[index]))
    scores = dict(zip(example.labels, sums, strict=True))
    return Prediction(
        example.label, example.labels[best], scores=scores, by_character=example.labels[best_by_character], cut=cut
    )
