"""The base's weights, for adapters whose change is not known without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from reflora_cli.adapters.frozen import FrozenWeight, freeze, is_adaptable
from reflora_cli.combining.source import Source
from reflora_cli.console.reporter import Reporter
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.base import Base
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.sections import ModelSection
from reflora_cli.runs.trained_base import check_same, found_again
from reflora_cli.serving.model import UNSCORED, plain_prompts
from reflora_cli.tasks.base import SequenceTask, Task
from reflora_cli.tasks.sources import BuiltinSource

ANY_LABELS = ("0", "1")
"""Labels of a base of which only the body is used."""


def base_section(source: Source, base: str | None) -> ModelSection:
    """Return where the base of an adapter is. base: its place, if the user names one. Raises InputError for a base that
    is lost.
    """
    known = source.base
    if not (base or known.name):
        what, remedy = "the adapter does not name its base model", "name the base: --base NAME"
        raise InputError(Problem(what, str(source.files.directory), remedy=remedy))
    if base:
        return ModelSection(name=base)
    return found_again(ModelSection(name=known.name), known)


def bare_task(source: Source) -> Task:
    """Return a task that loads the class of model onto which the adapter goes."""
    task_type = (source.files.config.model_extra or {}).get("task_type")
    if task_type == "SEQ_CLS" or (task_type is None and source.labels):
        return SequenceTask("adapter", BuiltinSource(""), ("text",), UNSCORED, tuple(source.labels or ANY_LABELS))
    return plain_prompts("adapter", "text")


def load_base(source: Source, base: str | None, reporter: Reporter) -> Base:
    """Return the base of an adapter in float32, on the CPU. Raises InputError for another base than the adapter's."""
    section = base_section(source, base)
    reporter.note(f"reading the weights of {section.name}")
    loaded = kind_of(bare_task(source)).load_base(section, section.revision, torch.float32, 0)
    check_same(loaded.source, loaded.commit, source.base)
    return loaded


def frozen_weights(base: Base, sources: Sequence[Source]) -> dict[str, FrozenWeight]:
    """Return the weights of all modules that an adapter changes, by name. Raises InputError for a module that the base
    does not have.
    """
    modules = dict(base.model.named_modules())
    wanted: Mapping[str, Source] = {name: own for own in sources for name in own.layers}
    missing = [name for name in wanted if name not in modules or not is_adaptable(modules[name])]
    if missing:
        what = "the adapter changes modules that the base does not have"
        where = f"{wanted[missing[0]].files.weights}, on {base.source.name}"
        raise InputError(Problem(what, where, ", ".join(missing[:3]), "the base on which it was trained"))
    return {name: freeze(modules[name]) for name in wanted}
