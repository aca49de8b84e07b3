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
    """Return the run's recipe with the present places of base and data, and a base that is whole in memory. Raises
    InputError for any other override.
    """
    from reflora_cli.ground.errors import InputError, Problem
    from reflora_cli.methods.settings import Streaming
    from reflora_cli.runs.places import run_recipe
    from reflora_cli.runs.restore import at_its_base
    from reflora_cli.runs.trained_base import adapter_base, unchecked

    for place in places or []:
        if place.partition("=")[0] not in PLACES:
            what, expected = (
                "the settings of a finished run cannot be changed",
                " or ".join(f"{key}=PATH" for key in PLACES),
            )
            raise InputError(
                Problem(what, f"override {place}", expected=f"{expected}: the new place of the base or data")
            )
    recipe = run_recipe(run, places or [])
    recipe = recipe if run.other is None else of_adapter(recipe, run.other)
    if doubt := unchecked(recipe.model, adapter_base(run.adapter)):
        reporter.note(doubt)
    whole = recipe.model.model_copy(update={"streaming": Streaming.NONE})
    return at_its_base(recipe.model_copy(update={"model": whole}), run.adapter)


def of_adapter(recipe: Recipe, adapter: Path) -> Recipe:
    """Return the recipe with the method that an adapter tells of. Raises InputError where there is none."""
    from pydantic import ValidationError

    from reflora_cli.adapter_io.files import read_adapter
    from reflora_cli.adapter_io.formats import FORMATS
    from reflora_cli.ground.errors import InputError, Problem
    from reflora_cli.methods.method import Method
    from reflora_cli.methods.presets import PLAIN

    files = read_adapter(adapter)
    settings = FORMATS[files.config.peft_type].settings(files)
    try:
        method = Method.model_validate({"name": PLAIN, **settings})
    except ValidationError as error:
        what, found = "the adapter has settings that no method of reflora has", str(error.errors()[0]["msg"])
        raise InputError(Problem(what, str(adapter), found)) from error
    return recipe.model_copy(update={"method": method})


def refuse_no_place(adapter: Path | None, output: Path | None) -> None:
    """Raises InputError for another adapter than the run's whose result would go into the run's directory."""
    from reflora_cli.ground.errors import InputError, Problem

    if adapter is not None and output is None:
        what = "with --adapter, the output must not go into the directory of the run"
        raise InputError(Problem(what, "--adapter", str(adapter), remedy="set the output directory: --output DIR"))


def merge_request(recipe: Recipe, run: RunDirectory, output: Path) -> MergeRequest:
    """Return the request that merges a run as it was trained, in its own dtype, with a model card."""
    from reflora_cli.export.card import merged_card
    from reflora_cli.merging.merge import MergeRequest
    from reflora_cli.runs.restore import kept_rows

    card = partial(merged_card, recipe, run)
    return MergeRequest(recipe, run.adapter, output, card=card, rows=kept_rows(recipe, run))
