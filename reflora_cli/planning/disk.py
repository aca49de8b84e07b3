"""What a run writes, and whether there is room and leave for it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import exists, is_directory
from reflora_cli.planning.devices import shown_gib
from reflora_cli.planning.scoring import times_due
from reflora_cli.planning.state import State
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.training.resume import check_output

BESIDE = 32 * 2**10
"""The bytes of a checkpoint's generators, progress and manifest, about."""


@dataclass(frozen=True)
class Disk:
    """Bytes on the disk. written: the number of checkpoints that the run writes; None where its steps are not known.
    kept: the number of those that stay. needed: the most at a time. free: what is free where the run is written.
    """

    checkpoint: int
    adapter: int
    written: int | None
    kept: int
    needed: int
    free: int


def disk_of(recipe: Recipe, state: State, total: int | None, per_epoch: int | None, output: Path | None) -> Disk:
    """Return what the run writes. Raises InputError for a place that cannot be written or has too little room."""
    place = output or Path("runs")
    if output is not None:
        check_output(RunDirectory(output), recipe, resume=False)
    held = state.adapter + state.beside
    best = held if recipe.eval.select == "best" and recipe.eval.every != "never" else 0
    checkpoint = held + state.optimizer + best + BESIDE
    written = times_due(recipe.train.checkpoint_every or "epoch", total, per_epoch, at_start=False)
    kept = min(recipe.train.keep_checkpoints, recipe.train.keep_checkpoints if written is None else written)
    needed = (kept + 1) * checkpoint + 2 * held
    parent = writable_parent(place)
    free = shutil.disk_usage(parent).free
    if free < needed:
        what = "the disk has too little room for the run's checkpoints"
        remedy = "free space, choose another --output, or lower train.keep_checkpoints"
        where, found = f"--output {place}", f"{shown_gib(free)} free"
        raise InputError(Problem(what, where, found, f"{shown_gib(needed)} for {kept + 1} checkpoints", remedy))
    return Disk(checkpoint, held, written, kept, needed, free)


def writable_parent(place: Path) -> Path:
    """Return the nearest existing directory of a run. Raises InputError where no directory can be made in it."""
    parent = next(own for own in (place, *place.absolute().parents) if exists(own))
    system = os.statvfs(parent)
    if not is_directory(parent):
        found = f"{parent} is not a directory"
    elif not os.access(parent, os.W_OK | os.X_OK):
        found = f"{parent} is not writable"
    elif system.f_blocks == 0:
        found = f"{parent} is part of a system file system, which holds no files"
    else:
        return parent
    what = "the output directory cannot be written"
    raise InputError(Problem(what, f"--output {place}", found, remedy="choose another --output"))
