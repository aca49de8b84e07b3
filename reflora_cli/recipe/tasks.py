"""Return the task that a recipe's section means: one that is known by its name, or one that the section describes."""

from __future__ import annotations

from dataclasses import replace

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.recipe.task_section import TaskSection
from reflora_cli.tasks.base import OwnLabels, PromptTask, SequenceTask, Task
from reflora_cli.tasks.chat import chat_task
from reflora_cli.tasks.chat_templates import template_text
from reflora_cli.tasks.own import own_generation, own_task
from reflora_cli.tasks.registry import find_task
from reflora_cli.tasks.wording import Wording


def task_of(section: TaskSection) -> Task:
    """Return the section's task. Raises InputError for an unknown name, metric, or labels that were not found yet."""
    if section.kind is None:
        return named_task(section)
    if section.kind == "chat":
        return described_chat(section)
    if section.kind == "generation":
        return described_generation(section)
    if section.labels is None and section.kind != "regression":
        expected, remedy = "task.labels, or a run directory", "name the labels in the order of the model's outputs"
        raise InputError(
            Problem("the recipe does not name the labels of the task", "task.labels", "null", expected, remedy)
        )
    return described_task(section)


def named_task(section: TaskSection) -> Task:
    """Return the task of that name, its rows put as the section says. Raises InputError for a choice of prompt that it
    does not have, and for a template that is not there or broken.
    """
    task = find_task(section.name)
    if section.prompt is None:
        return task
    if not any(part.example_by_template for part in task.parts):
        what = f"task {task.name} has a fixed prompt, so task.prompt cannot be chosen"
        raise InputError(Problem(what, "task.prompt", section.prompt, remedy="leave task.prompt out"))
    return task.templated(given_template(section)) if section.prompt == "template" else task


def given_template(section: TaskSection) -> str:
    return template_text(section.template) if section.template is not None else ""


def described_chat(section: TaskSection) -> PromptTask:
    """Return the task of a section with conversations. Raises InputError for a template that is not there or broken."""
    name = section.name if isinstance(section.name, str) else ""
    return chat_task(name, given_template(section), section.validation)


def described_task(section: TaskSection) -> SequenceTask:
    """Return the task of a section with a kind, whose labels may not be known yet."""
    weights = tuple(section.class_weights) if isinstance(section.class_weights, list) else ()
    own = OwnLabels(section.label_columns, section.separator, section.validation, weights, section.kind == "regression")
    kind, name = section.kind or "", section.name if isinstance(section.name, str) else ""
    is_known = section.labels is not None or kind == "regression"
    metric = section.metric if is_known else None
    return own_task(kind, name, section.text_columns, section.labels or (), own, metric)


def described_generation(section: TaskSection) -> PromptTask:
    """Return the task of a section that has texts written."""
    name = section.name if isinstance(section.name, str) else ""
    wording, column = Wording(section.wording or f"{{{section.text_columns[0]}}} ||"), section.label_columns[0]
    task = own_generation(name, wording, column, section.metric, section.validation)
    inputs = dict.fromkeys(wording.columns, "task.text" if section.wording is None else "task.wording")
    return replace(task, keys={**inputs, column: "task.label"})
