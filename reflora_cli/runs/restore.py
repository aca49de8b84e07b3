"""Load the model that was trained, from a run directory or from a recipe and an adapter directory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from reflora_cli import __version__
from reflora_cli.adapter_io.files import WEIGHTS, AdapterFiles, read_adapter
from reflora_cli.adapter_io.keys import saved_modules
from reflora_cli.adapter_io.loading import load_adapter
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.ties import is_inside
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.settings import Dtype
from reflora_cli.model.attention import section_on
from reflora_cli.model.base import Base
from reflora_cli.model.fit import check_length
from reflora_cli.model.labels import as_recorded, refuse_foreign_head
from reflora_cli.model.precision import DTYPES, Compute, pick_device, resolve_dtype
from reflora_cli.objectives.objective import Objective
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.runs.environment import base_identity
from reflora_cli.runs.places import run_recipe
from reflora_cli.runs.trained_base import adapter_base, base_of, check_same, found_again
from reflora_cli.tasks.base import Task


@dataclass(frozen=True)
class Restored:
    """A base model with its adapter attached (or none), in evaluation mode on its device."""

    recipe: Recipe
    task: Task
    base: Base
    files: AdapterFiles | None
    adapted: Adapted | None
    objective: Objective[Any]

    @property
    def compute(self) -> Compute:
        return self.objective.compute


def at_its_base(recipe: Recipe, adapter: Path) -> Recipe:
    """Return the recipe with the present place of the adapter's base. Raises InputError for a base that is lost."""
    return recipe.model_copy(update={"model": found_again(recipe.model, adapter_base(adapter))})


def restore(
    recipe: Recipe, adapter: Path | None, device: torch.device | None = None, rank: int = 0, processes: int = 1
) -> Restored:
    """Load a recipe's base model and put an adapter on it. rank, processes: this process and those that share rows.

    Without an adapter the base itself must bring the task's head. Raises InputError for a base other than the one the
    adapter was trained on, and for everything that does not fit.
    """
    return with_adapter(recipe, read_adapter(adapter) if adapter is not None else None, device, rank, processes)


def with_adapter(
    recipe: Recipe, files: AdapterFiles | None, device: torch.device | None = None, rank: int = 0, processes: int = 1
) -> Restored:
    """Do what `restore` does with an adapter that has been read."""
    task = task_of(recipe.task)
    kind = kind_of(task)
    device = device or pick_device()
    dtype = resolve_dtype(trained_dtype(files, recipe.model.dtype), device)
    known = base_of(files) if files is not None else None
    section = found_again(recipe.model, known) if known is not None else recipe.model
    base = kind.load_base(section_on(section, device, dtype), section.revision, dtype, recipe.train.seed)
    base = replace(base, reserved=files.config.virtual if files is not None else 0)
    check_length(base, recipe.task.max_length)
    adapted = None
    if files is None or known is None:
        refuse_random_head(base)
        refuse_foreign_head(base, task)
    else:
        check_same(base.source, base.commit, known)
        base = with_its_labels(files, base, task)
        adapted = load_adapter(base.model, files, base.fresh)
    base.place(device)
    base.model.eval()
    compute = Compute(device, dtype, rank, processes)
    return Restored(recipe, task, base, files, adapted, kind.make_objective(recipe, base, compute))


def trained_dtype(files: AdapterFiles | None, dtype: Dtype) -> Dtype:
    """Return the dtype that `auto` meant where the adapter was trained, if it says so: another device would choose
    another.
    """
    recorded = files.record.get("dtype") if files is not None else None
    return Dtype(recorded) if dtype is Dtype.AUTO and recorded in [*DTYPES] else dtype


def refuse_random_head(base: Base) -> None:
    if base.fresh:
        problem = Problem(
            "the base model has no trained head for this task: its scores would be random",
            where=f"model.name: {base.source.name}",
            found=f"missing in the checkpoint: {', '.join(base.fresh)}",
            expected="a run directory, a recipe with --adapter, or a model with the task's head",
        )
        raise InputError(problem)


def with_its_labels(files: AdapterFiles, base: Base, task: Task) -> Base:
    """Return the base with its outputs named as the adapter says. Raises InputError for names other than the task's.

    An adapter made by PEFT says nothing: its head is assumed to have the task's labels, while the base's own head must
    have them.
    """
    recorded = files.record.get("label_names")
    if isinstance(recorded, list) and recorded:
        return as_recorded(base, task, [str(name) for name in recorded], str(files.directory))
    if not (base.head and is_inside(base.head[-1], saved_modules(base.model, files.config))):
        refuse_foreign_head(base, task)
    return base


def model_identity(restored: Restored) -> dict[str, object]:
    """Return what of a model decides its answers: the base, the adapter's weights, the dtype, and this version."""
    files = restored.files
    return {
        "base": base_identity(restored.base),
        "adapter_sha256": hashlib.sha256((files.directory / WEIGHTS).read_bytes()).hexdigest() if files else None,
        "dtype": restored.compute.dtype_name,
        "reflora": __version__,
    }


def kept_rows(recipe: Recipe, run: RunDirectory) -> Path | None:
    """Return the file in which a run keeps its rows; None if the recipe asks for other data than the run's."""
    return run.probes if run_recipe(run).task.data == recipe.task.data else None
