"""Say what the outputs of a classifier mean.

A checkpoint with a trained head says it in its config (`id2label`), in an order of its own: published models for MNLI
come in several orders. Its outputs keep their order, so that they mean the same in everything that is made from the
checkpoint; the labels of the rows are mapped to it. A head that is drawn anew has the task's order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.base import Base
from reflora_cli.tasks.base import Task

GENERIC = re.compile(r"(label|class)?[\W_]*[0-9]+", re.IGNORECASE)
"""Names of outputs that say nothing about their meaning, as LABEL_0."""


def said_labels(config: Any) -> tuple[str, ...]:
    """Return the names that a config gives to outputs, in their order; empty where they are generic."""
    named = config.id2label or {}
    names = tuple(str(named.get(index, "")).strip() for index in range(len(named)))
    return () if all(GENERIC.fullmatch(name) for name in names) else names


def ordered_as(names: Sequence[str], said: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names in the order that `said` has; None if `said` holds other names.

    Case and separators are ignored, unless `said` holds exactly these names, which may be alike without them: C, C++.
    """
    if sorted(said) == sorted(names):
        return tuple(said)
    own = {bare(name): name for name in names}
    keys = [bare(name) for name in said]
    return tuple(own[key] for key in keys) if sorted(keys) == sorted(own) else None


def bare(name: str) -> str:
    """Return a name in lower case without separators: `notentailment` for `Not-Entailment`."""
    return re.sub(r"[\W_]+", "", name.casefold())


def name_outputs(config: Any, labels: Sequence[str]) -> None:
    """Write the meaning of the outputs into a config; the one output of a regression is a score."""
    config.id2label = dict(enumerate(labels)) or {0: "score"}
    config.label2id = {name: index for index, name in config.id2label.items()}


def labelled(base: Base, task: Task, said: Sequence[str]) -> Base:
    """Return the base with its outputs named. said: the checkpoint's names for the outputs of its own head, or none."""
    order = ordered_as(task.label_names, said) if said and task.label_names else task.label_names
    labels = task.label_names if order is None else order
    name_outputs(base.model.config, labels)
    return replace(base, labels=labels, foreign_labels=tuple(said) if order is None else ())


def as_recorded(base: Base, task: Task, recorded: Sequence[str], where: str) -> Base:
    """Return the base with its outputs named as the adapter records. Raises InputError for names other than the
    task's.
    """
    if not task.label_names:
        return base
    named = labelled(base, task, recorded)
    if named.foreign_labels:
        what = "the adapter was trained for other labels than the task's"
        raise InputError(Problem(what, where, ", ".join(recorded), f"{task.name}: {', '.join(task.label_names)}"))
    return named


def refuse_foreign_head(base: Base, task: Task) -> None:
    """Raises InputError for a trained head whose outputs mean something other than the task's labels."""
    if base.foreign_labels:
        what = "the base model has a trained head for other labels than the task's"
        found, expected = (", ".join(own) for own in (base.foreign_labels, task.label_names))
        remedy = (
            "use a base without a head, or correct id2label in its config.json if its outputs do mean the task's labels"
        )
        raise InputError(Problem(what, f"model.name: {base.source.name}, id2label", found, expected, remedy))
