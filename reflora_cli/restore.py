"""From a run directory, or a recipe and an adapter directory, back to the model that was trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reflora_cli.adapter_files import AdapterFiles, read_adapter
from reflora_cli.adapter_loading import load_adapter
from reflora_cli.adapters.inject import Adapted
from reflora_cli.environment import base_identity
from reflora_cli.errors import InputError, Problem
from reflora_cli.model.base import Base, check_length
from reflora_cli.model.pick import load_base
from reflora_cli.model.precision import DTYPES, Compute, pick_device, resolve_dtype
from reflora_cli.objectives.objective import Objective
from reflora_cli.objectives.pick import make_objective
from reflora_cli.recipe import Recipe
from reflora_cli.tasks.base import Task
from reflora_cli.tasks.registry import find_task


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


def restore(recipe: Recipe, adapter: Path | None, device: torch.device | None = None) -> Restored:
    """Load a recipe's base model and put an adapter on it.

    Without an adapter the base itself must bring the task's head. Raises InputError for a base other than the one the
    adapter was trained on, and for everything that does not fit.
    """
    task = find_task(recipe.task.name)
    files = read_adapter(adapter) if adapter is not None else None
    device = device or pick_device()
    dtype = resolve_dtype(trained_dtype(files, recipe.model.dtype), device)
    section = recipe.model
    revision = section.revision or trained_commit(files, section.name)
    base = load_base(section, revision, task, dtype, recipe.train.seed)
    check_length(base, recipe.task.max_length)
    adapted = None
    if files is None:
        refuse_random_head(base)
    else:
        check_base(files, base)
        adapted = load_adapter(base.model, files, base.fresh)
    base.place(device)
    base.model.eval()
    return Restored(recipe, task, base, files, adapted, make_objective(recipe, task, base, Compute(device, dtype)))


def trained_commit(files: AdapterFiles | None, name: str) -> str | None:
    """The hub commit that the adapter was trained on, if it says so: a base that moves on upstream changes nothing."""
    trained_on = files.record.get("base") if files is not None else None
    if not isinstance(trained_on, dict) or trained_on.get("name") != name:
        return None
    commit = trained_on.get("commit")
    return commit if isinstance(commit, str) else None


def trained_dtype(files: AdapterFiles | None, dtype: str) -> str:
    """What `auto` was where the adapter was trained, if it says so: another device would choose otherwise."""
    recorded = files.record.get("dtype") if files is not None else None
    return recorded if dtype == "auto" and isinstance(recorded, str) and recorded in DTYPES else dtype


def refuse_random_head(base: Base) -> None:
    if base.fresh:
        problem = Problem(
            "the base model has no trained head for this task: its scores would be random",
            where=f"model.name: {base.source.name}",
            found=f"absent from the checkpoint: {', '.join(base.fresh)}",
            expected="a run directory, a recipe with --adapter, or a model with the task's head",
        )
        raise InputError(problem)


def check_base(files: AdapterFiles, base: Base) -> None:
    """Refuse a base whose weights are not those that the adapter was trained on."""
    trained_on, now = files.record.get("base"), base_identity(base)
    if not isinstance(trained_on, dict):
        return
    for key in ("sha256", "commit"):
        if trained_on.get(key) and now[key] and trained_on[key] != now[key]:
            problem = Problem(
                "the base model is not the one that the adapter was trained on",
                where=f"model.name: {base.source.name}",
                found=f"{key} {now[key]}",
                expected=f"{key} {trained_on[key]}",
            )
            raise InputError(problem)
