"""Check, on a few rows, what training on answers assumes of a language model.

A token's prediction must depend on the tokens before it and on nothing else: not on later tokens, on padding, or on
other rows, packed with it or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from reflora_cli.data.encode_prompts import PromptRow, collate_prompts, from_place, token_ids
from reflora_cli.data.pack import pack_prompts
from reflora_cli.data.pad import Padding
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.base import Base, positions
from reflora_cli.model.language import hidden_states, vocabulary
from reflora_cli.model.precision import Compute, precision
from reflora_cli.objectives.invariance import (
    LONG,
    LONGEST,
    TEXTS,
    Trial,
    agree,
    evaluating,
    known_tokens,
    pick_padding,
    readable,
    twin,
)

Together = Callable[[Sequence[PromptRow], int], dict[str, Tensor]]
"""A function from rows and the pad token to a batch with its supervision."""


def causal_padding(base: Base, compute: Compute) -> Padding:
    """Return how rows go through a causal model together: padded on the right, or only with rows of the same length.

    Raises InputError for a model that sees the tokens that it is to predict.
    """

    def read(rows: Sequence[PromptRow], _: Padding) -> Tensor:
        return states(base, compute, rows, collate_prompts)

    tokens = trial_tokens(base)
    rows = [prompt_row(ids) for ids in tokens]
    beginning = prompt_row(tokens[LONG][: len(tokens[LONG]) // 2])
    with readable(base):
        whole, alone = (read([row], Padding.ALONE) for row in (rows[0], beginning))
    if not agree(whole[: len(alone)], alone, compute.dtype):
        problem = Problem(
            "the model is not a causal language model: it sees the tokens that it should predict",
            where=f"model.name: {base.source.name}",
            found=f"a {base.model.config.model_type} model",
            remedy="choose a decoder; some encoders become one by is_decoder: true in their config.json",
        )
        raise InputError(problem)
    trial = Trial(rows, lambda row: read([row], Padding.ALONE))
    return pick_padding(base, compute, trial, (Padding.RIGHT, Padding.NONE), read)


def trial_tokens(base: Base) -> list[list[int]]:
    """Return the token ids of a trial's rows, as the tokenizer makes them of texts."""
    longest = min(LONGEST, positions(base))
    rows = [known_tokens(base, ids[:longest]) for ids in token_ids(base.tokenizer, TEXTS)]
    return [*rows, twin(rows[LONG])]


def prompt_row(ids: Sequence[int]) -> PromptRow:
    """Return a row in which everything but the first token is supervised."""
    return from_place(np.array(ids, dtype=np.int32), 1)


def states(base: Base, compute: Compute, rows: Sequence[PromptRow], together: Together) -> Tensor:
    """Return the body's output [k, width], float32, before every supervised token, row after row."""
    batch = {name: tensor.to(compute.device) for name, tensor in together(rows, base.tokenizer.pad_token_id).items()}
    supervised = batch.pop("supervised")
    del batch["targets"]
    with evaluating(base.model), precision(compute.device, compute.dtype):
        hidden: Tensor = hidden_states(base.model, **batch, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, supervised).float()


def check_packing(base: Base, compute: Compute) -> None:
    """Compare packed rows with the same rows apart. Raises InputError for a model in which they see each other."""
    # The longest alone, then the other two in one sequence: in the same order, packed or not.
    lengths = (8, 5, 3)
    rows = [prompt_row([token % vocabulary(base.model) for token in range(4, 4 + length)]) for length in lengths]
    apart = torch.cat([states(base, compute, [row], collate_prompts) for row in rows])
    if not agree(states(base, compute, rows, pack_prompts), apart, compute.dtype):
        what = f"packed rows would see each other in a {base.model.config.model_type} model"
        raise InputError(Problem(what, "train.packing", "true", remedy="set train.packing=false"))
