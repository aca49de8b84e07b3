"""Find the recipe of a run and what to merge of it, with which `merge` and `export` begin."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reflora_cli.console.reporter import Reporter
    from reflora_cli.merging.merge import MergeRequest
    from reflora_cli.recipe.sections import Recipe
    from reflora_cli.runs.directory import RunDirectory

PLACES = ("model.name", "task.data")
"""The keys of a run's recipe that may be changed afterwards: everything else decided what was trained."""


def trained_recipe(run: RunDirectory, places: Sequence[str] | None, reporter: Reporter) -> Recipe:
    """Return the run's recipe with the present places of base and data. Raises InputError for any other override."""
    from reflora_cli.ground.errors import InputError, Problem
    from reflora_cli.runs.places import run_recipe
    from reflora_cli.runs.restore import at_its_base
    from reflora_cli.runs.trained_base import adapter_base, unchecked

    for place in places or []:
        if place.partition("=")[0] not in PLACES:
            what, expected = "a finished run cannot be changed", " or ".join(f"{key}=PATH" for key in PLACES)
            raise InputError(Problem(what, f"override {place}", expected=f"{expected}, where these are now"))
    recipe = run_recipe(run, places or [])
    if doubt := unchecked(recipe.model, adapter_base(run.adapter)):
        reporter.note(doubt)
    return at_its_base(recipe, run.adapter)


def merge_request(recipe: Recipe, run: RunDirectory, output: Path) -> MergeRequest:
    """Return the request that merges a run as it was trained, in its own dtype, with a model card."""
    from reflora_cli.export.card import merged_card
    from reflora_cli.merging.merge import MergeRequest
    from reflora_cli.runs.restore import kept_rows

    card = partial(merged_card, recipe, run)
    return MergeRequest(recipe, run.adapter, output, card=card, rows=kept_rows(recipe, run))
