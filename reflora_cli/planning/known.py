"""What plans of one recipe share, so that its alternatives are not traced again where nothing changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar

from reflora_cli.planning.passes import Batch, Traced
from reflora_cli.planning.skeleton import Plain
from reflora_cli.recipe.sections import Recipe

T = TypeVar("T")


@dataclass
class Known:
    """Found values by what they depend on. left_out: what `examined` returned, which depends on base, task and method;
    passes: those of training; scorings: the peaks of evaluations.
    """

    left_out: dict[Hashable, tuple[str, ...]] = field(default_factory=dict)
    passes: dict[Hashable, Traced] = field(default_factory=dict)
    scorings: dict[Hashable, int | None] = field(default_factory=dict)


def once(table: dict[Hashable, T], key: Hashable, find: Callable[[], T]) -> T:
    """Return the value of a key, found at the first time."""
    if key not in table:
        table[key] = find()
    return table[key]


def examined_key(recipe: Recipe) -> Hashable:
    """Return what decides which modules are left out. A base is examined as it is before it is quantized."""
    model = recipe.model.model_dump_json(exclude={"quantization", "double_quant", "dtype", "streaming"})
    return model, recipe.method.model_dump_json(), recipe.task.model_dump_json()


def pass_key(recipe: Recipe, plain: Plain, batch: Batch, device: str) -> Hashable:
    """Return what decides a pass of training: all but what only the optimizer or the batch sees."""
    train, sizes = recipe.train, {"optimizer", "micro_batch_size", "batch_size", "learning_rate"}
    accumulates = train.batch_size > train.micro_batch_size
    return batch, accumulates, device, train.model_dump_json(exclude=sizes), *base_key(recipe, plain)


def scoring_key(recipe: Recipe, plain: Plain) -> Hashable:
    """Return what decides a batch of an evaluation: nothing of how the run trains."""
    return recipe.eval.model_dump_json(), *base_key(recipe, plain)


def base_key(recipe: Recipe, plain: Plain) -> tuple[Hashable, ...]:
    """Return what decides the adapted base and its rows. A pass takes the same where weights come and go beside it."""
    model = recipe.model.model_dump_json(exclude={"streaming"})
    return plain.dtype, model, recipe.method.model_dump_json(), recipe.task.model_dump_json()
