"""Keep where the data and the base of a run lie, and find them again.

A recipe keeps a path as it was given, and a relative one means something else in another directory. So a run records
each path beside it in two forms: absolute, and as seen from the run's directory, which stays true where run and data
are moved together. Runs that were made before record neither.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reflora_cli.data.load import OWN
from reflora_cli.ground.paths import exists, expanded
from reflora_cli.model.sources import Source
from reflora_cli.recipe.files import is_named, load_recipe
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.directory import RunDirectory, read_environment

PLACES, DATA = "paths", "task.data"
"""The entry of `environment.json` with the places of data, and the key in it."""
ABSOLUTE, FROM_RUN = "path", "from_run"
"""The two forms of a path, and the names under which a record has them."""


def place_record(run: RunDirectory, path: Path) -> dict[str, str]:
    """Return both forms of a path, links followed."""
    whole = path.resolve()
    return {ABSOLUTE: str(whole), FROM_RUN: os.path.relpath(whole, run.path.resolve())}


def with_places(environment: Mapping[str, object], recipe: Recipe, run: RunDirectory, source: Source) -> dict[str, Any]:
    """Return what `environment.json` holds, completed by the places of data and base, seen from the run.

    source: that of the base. One of the package or of the hub has no place.
    """
    found: dict[str, Any] = dict(environment)
    if source.is_path:
        found["base"] = {**found["base"], FROM_RUN: place_record(run, Path(source.location))[FROM_RUN]}
    if recipe.task.data not in OWN:
        found[PLACES] = {DATA: place_record(run, expanded(recipe.task.data))}
    return found


def moved_with(run: Path, record: Mapping[str, Any]) -> str | None:
    """Return where something lies if it was moved together with the run's directory; None for a record that does not
    say how it is seen from there.
    """
    seen = record.get(FROM_RUN)
    return os.path.normpath(run.resolve() / seen) if isinstance(seen, str) and seen else None


def run_recipe(run: RunDirectory, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a run with the present place of its data: the one that an override names, or else where
    training read them. Raises InputError.
    """
    recipe = load_recipe(str(run.recipe), overrides)
    return recipe if is_named(overrides, ("task", "data")) else with_data_found(recipe, run)


def with_data_found(recipe: Recipe, run: RunDirectory) -> Recipe:
    """Return a run's recipe with the first place at which there are data: where they were, where they are if they were
    moved together with the run, or what the recipe says here. Data that are lost keep the place where they were.
    """
    record = data_record(run)
    if recipe.task.data in OWN or not isinstance(record.get(ABSOLUTE), str):
        return recipe
    places = (record[ABSOLUTE], moved_with(run.path, record), recipe.task.data)
    place = next((place for place in places if place and exists(expanded(place))), record[ABSOLUTE])
    return recipe.model_copy(update={"task": recipe.task.model_copy(update={"data": place})})


def moved_data(recipe: Recipe, run: RunDirectory) -> str:
    """Say that a run's data are read from another place than training read them from; empty where they are not."""
    before = data_record(run).get(ABSOLUTE)
    if not isinstance(before, str) or recipe.task.data in OWN or recipe.task.data == before:
        return ""
    return f"the data are read from {recipe.task.data}, but training read them from {before}"


def data_record(run: RunDirectory) -> Mapping[str, Any]:
    """Return what a run records of the place of its data; nothing for a run that records none."""
    try:
        return dict((read_environment(run) or {})[PLACES][DATA])
    except (KeyError, TypeError, ValueError):
        return {}
