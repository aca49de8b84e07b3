"""What scoring costs: how often, how many rows, and what one of its batches takes at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from reflora_cli.methods.settings import EvalProtocol
from reflora_cli.model.language import hidden_states
from reflora_cli.model.precision import precision
from reflora_cli.objectives.objective import Split
from reflora_cli.objectives.rows import Rows
from reflora_cli.planning.meter import Meter
from reflora_cli.planning.passes import CPU, FEW, MORE, Batch, arguments_of, block_count, has_equal_blocks
from reflora_cli.planning.skeleton import Plain, Skeleton, skeleton, token_inputs
from reflora_cli.recipe.sections import Recipe
from reflora_cli.tasks.base import Answers


@dataclass(frozen=True)
class SplitCost:
    """What one evaluation reads of a split. way: labels, loss, choices or generation. generated: the most tokens that
    are generated.
    """

    name: str
    rows: int
    way: str
    generated: int


@dataclass(frozen=True)
class Scoring:
    """All evaluations of a run. times: their number; None where the number of steps is not known."""

    times: int | None
    splits: tuple[SplitCost, ...]


def scoring_of(recipe: Recipe, plain: Plain, rows: Rows | None, total: int | None, per_epoch: int | None) -> Scoring:
    """Return the evaluations of a run of so many steps."""
    splits = tuple(cost_of(recipe, plain, split) for split in rows.splits) if rows else ()
    return Scoring(times_due(recipe.eval.every, total, per_epoch, at_start=recipe.eval.at_start), splits)


def times_due(every: int | str, total: int | None, per_epoch: int | None, *, at_start: bool) -> int | None:
    """Return how often something is due in a run that happens every so many steps or epochs, and at the end."""
    if every == "never":
        return int(at_start)
    if total is None or (every == "epoch" and per_epoch is None):
        return None
    period = int(per_epoch or 1) if every == "epoch" else int(every)
    return total // period + bool(total % period) + at_start


def cost_of(recipe: Recipe, plain: Plain, split: Split) -> SplitCost:
    """Return what one evaluation reads of a split."""
    count, section = len(split.rows), recipe.eval
    if split.task is None:
        way = "labels" if plain.kind.peft_type == "SEQ_CLS" else "loss"
        return SplitCost(split.name, count, way, 0)
    if split.task.answers is not Answers.COMPARED and section.protocol is EvalProtocol.CHOICES:
        return SplitCost(split.name, count, "choices", 0)
    return SplitCost(split.name, count, "generation", count * section.max_new_tokens)


def scoring_peak(recipe: Recipe, plain: Plain, whole: Skeleton, rows: Rows | None) -> int | None:
    """Return the bytes that a batch of an evaluation takes at a time, under FakeTensorMode: 0 where nothing is scored,
    None where it cannot be found.
    """
    if recipe.eval.every == "never" and not recipe.eval.at_start:
        return 0
    try:
        if not has_equal_blocks(whole, plain.config):
            return scored_pass(recipe, plain, whole, rows)
        few, more = (
            scored_pass(recipe, plain, skeleton(recipe, plain, whole.left_out, count), rows) for count in (FEW, MORE)
        )
        return few + (more - few) * (block_count(plain.config) - FEW) // (MORE - FEW)
    except Exception:  # an architecture that cannot be read without values
        return None


@torch.no_grad()
def scored_pass(recipe: Recipe, plain: Plain, made: Skeleton, rows: Rows | None) -> int:
    """Return the peak of one batch: with the cache of its keys and values if answers are generated."""
    model: Any = made.model
    batch, generates = largest_scored(recipe, plain, rows)
    model.eval()
    with Meter() as meter, precision(CPU, plain.dtype):
        if generates:
            hidden = hidden_states(model, **token_inputs(batch.rows, batch.length), use_cache=True)
            del hidden
        else:
            plain.kind.loss_module(recipe, model)(**arguments_of(plain, batch, model))
    model.train()
    return int(meter.peak)


def largest_scored(recipe: Recipe, plain: Plain, rows: Rows | None) -> tuple[Batch, bool]:
    """Return the largest batch of an evaluation, and whether it generates."""
    section, length = recipe.eval, recipe.task.max_length
    costs = [cost_of(recipe, plain, split) for split in rows.splits] if rows else []
    count = min(section.batch_size, max((own.rows for own in costs), default=section.batch_size))
    if any(own.way == "generation" for own in costs):
        return Batch(count * section.num_beams, length + section.max_new_tokens, 0), True
    encoded = [len(row.input_ids) for split in rows.splits if split.task is None for row in split.rows] if rows else []
    batch = Batch(count, max(encoded, default=length), 0)
    return replace(batch, learned=min(batch.rows * (batch.length - 1), 4096)), False
