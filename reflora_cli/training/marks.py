"""Decide what of a run is marked in its curves: where something begins, and which step was the best."""

from __future__ import annotations

from dataclasses import dataclass

from reflora_cli.recipe.sections import Recipe


@dataclass(frozen=True)
class Mark:
    """A line through all curves. dashes: matplotlib's name of its style."""

    step: int
    label: str
    color: str
    dashes: str


def marks(recipe: Recipe, best_step: int | None) -> list[Mark]:
    """Return the end of the learning rate's warm-up, the end of the plain steps before an update rule acts, and the
    best evaluation, each if there is one.
    """
    warmup, update = recipe.train.warmup_steps, recipe.method.update
    found = [
        Mark(warmup, f"learning rate at its peak after step {warmup}", "#000000", ":"),
        Mark(update.plain_steps, f"{update} acts after step {update.plain_steps}", "#CC79A7", "-."),
        Mark(best_step or 0, f"best evaluation after step {best_step}", "#000000", "--"),
    ]
    return [mark for mark in found if mark.step]
