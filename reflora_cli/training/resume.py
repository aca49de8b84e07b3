"""Begin a run, or continue one that was interrupted.

Continuing is refused if it would be another run: with another recipe, base or data. What was damaged meanwhile is
passed over, reported, and mended if possible.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reflora_cli.adapter_io.files import with_ties
from reflora_cli.console.reporter import Reporter
from reflora_cli.ground.atomic import write_file, write_json
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import exists, is_file
from reflora_cli.model.precision import Compute
from reflora_cli.objectives.rows import rows_text
from reflora_cli.recipe.dotted import flattened
from reflora_cli.recipe.files import dump_recipe, load_recipe
from reflora_cli.recipe.sections import ModelSection, Recipe
from reflora_cli.runs.directory import RunDirectory, is_unused, read_environment, remove_strays
from reflora_cli.runs.places import FROM_RUN
from reflora_cli.runs.resumed import record_resumed
from reflora_cli.runs.together import of_first
from reflora_cli.runs.trained_base import found_again, trained_on
from reflora_cli.training.checkpoint import load_checkpoint, newest_whole, restore_parameters, restore_random_state
from reflora_cli.training.session import Session, save_adapter

MOST_SHOWN = 5
"""The number of changed settings that a message shows."""


def check_output(run: RunDirectory, recipe: Recipe, resume: bool) -> None:
    """Check that a new run has an unused directory, and a resumed one the same recipe. Raises InputError."""
    try:
        str(run.path).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            Problem("the name of the output directory is not valid text", "--output", repr(str(run.path)))
        ) from error
    if not resume:
        if exists(run.path) and not is_unused(run.path):
            remedy = "choose another --output, or continue the run in it with --resume"
            raise InputError(Problem("the output directory is not empty", str(run.path), remedy=remedy))
        return
    if not is_file(run.recipe):
        if run.checkpoints():
            what, remedy = "the recipe of the run is missing", f"restore it as {run.recipe}"
            raise InputError(Problem(what, str(run.path), expected="recipe.yaml", remedy=remedy))
        raise InputError(Problem("there is no run to resume", str(run.path), expected="a directory with recipe.yaml"))
    known, now = (flattened(own.model_dump(mode="json")) for own in (load_recipe(str(run.recipe), []), recipe))
    changed = [key for key in {**known, **now} if known.get(key) != now.get(key)]
    if changed:
        found, expected = ("; ".join(f"{key}: {own.get(key)}" for key in changed[:MOST_SHOWN]) for own in (now, known))
        what = "the recipe differs from the recipe of the run"
        remedy = "continue with the run's own recipe, or start a new run with another --output"
        raise InputError(Problem(what, str(run.recipe), found, expected, remedy))


def start(session: Session, resume: bool, place: Path | None) -> None:
    """Write the run's unchanging files, or continue from the checkpoint at `place`.

    Raises InputError for a run that cannot be continued.
    """
    job, run = session.job, session.run
    known = known_environment(session, place) if resume else None
    if known is not None:
        check_environment(session, known)
    if place:
        restore(session, place)
    if session.is_writer:
        remove_strays(run)
        write_file(run.recipe, dump_recipe(job.recipe))
        if job.earlier is not None:
            job.earlier.keep(run.after)
        if known is None:
            write_json(run.environment, job.environment)
        if place:
            record_resumed(run, session.progress.step, job.environment)
        write_file(run.probes, rows_text(job.probes))
        kept = kept_metrics(session)
        session.progress.lines = len(kept)
        write_file(run.metrics, "".join(kept))
        if session.best:
            save_adapter(session, session.best)
    session.accelerator.wait_for_everyone()
    session.reporter.facts("reflora train", {**job.facts(), "run": str(run.path)})


def chosen_checkpoint(run: RunDirectory, compute: Compute, reporter: Reporter) -> Path | None:
    """Return the newest checkpoint that is whole, as the first process sees it, so that all processes take the same
    one.
    """
    place, damaged = of_first(compute, lambda: newest_whole(run))
    for one in damaged:
        reporter.note(f"skipped a damaged checkpoint: {one}")
    return place


def known_environment(session: Session, place: Path | None) -> dict[str, Any] | None:
    """Return the record of what the run began with; None if there is none."""
    found = read_environment(session.run)
    if found is None and place:  # without one, it was killed before it had written any of its own
        path = session.run.environment
        session.reporter.note(
            f"{path} is missing or damaged: it cannot be checked that base and data are still the same"
        )
    return found


def base_of(recipe: Recipe, run: RunDirectory, resume: bool) -> ModelSection:
    """Return the base to load: a run continues on the base that it began with. Raises InputError if that is lost."""
    if not resume:
        return recipe.model
    try:
        return found_again(recipe.model, trained_on(read_environment(run) or {}, run=run.path))
    except InputError as error:
        what = "the base model changed since the run began"
        remedy = "restore the base, or start a new run with another --output"
        raise InputError(*(replace(problem, what=what, remedy=remedy) for problem in error.problems)) from error


def check_environment(session: Session, known: Mapping[str, Any]) -> None:
    """Raises InputError if the base or the data are not those of the run any more."""
    job = session.job
    now = json.loads(json.dumps(job.environment))
    if known.get("packages") != now["packages"]:
        session.reporter.note("continuing with other versions of libraries: results may differ in their last bits")
    start = ("after", "the adapter from which it began")
    for key, what in (("base", "the base model"), ("data", "the data"), start):
        before = known.get(key)
        if key == "base" and isinstance(before, dict):
            # Where it lies may change. Older runs tell neither that, nor the commit, nor what outputs mean: the labels.
            before = {"labels": list(job.task.label_names), **before, "path": now[key]["path"]}
            before.pop(FROM_RUN, None)
            now[key].pop(FROM_RUN, None)
            before["commit"] = before.get("commit") or now[key]["commit"]
        if before != now.get(key):
            found, expected = json.dumps(now.get(key)), json.dumps(before)
            raise InputError(
                Problem(f"{what} changed since the run began", str(session.run.environment), found, expected)
            )


def restore(session: Session, place: Path) -> None:
    """Load a checkpoint into model, optimizer, generators and progress."""
    job = session.job
    checkpoint = load_checkpoint(place)
    restore_parameters({**session.parameters, **job.adapted.constants}, checkpoint.trained, place)
    try:
        job.optimizer.load_tensors(session.parameters, checkpoint.optimizer)
        restore_random_state(checkpoint.random, job.compute.rank)
    except (ValueError, RuntimeError) as error:
        raise InputError(Problem("the checkpoint is not of this recipe", str(place), str(error))) from error
    session.progress, session.best = checkpoint.progress, with_ties(job.base.model, job.saved, checkpoint.best)
    if session.accelerator.scaler is not None and checkpoint.progress.scaler:
        session.accelerator.scaler.load_state_dict(checkpoint.progress.scaler)
    session.reporter.note(f"continuing from {place}")


def kept_metrics(session: Session) -> list[str]:
    """Return the lines of metrics.jsonl that were there at the checkpoint; later ones are written again."""
    path, progress = session.run.metrics, session.progress
    if not progress.lines or not is_file(path):
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError as error:
        session.reporter.note(f"{path} cannot be read and is started again: {error}")
        return []
    return [line for line in lines[: progress.lines] if is_before(line, progress.step)]


def is_before(line: str, step: int) -> bool:
    """Whether a line of the log is about a step up to this one; a file that was cut or removed may hold others."""
    try:
        return bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
