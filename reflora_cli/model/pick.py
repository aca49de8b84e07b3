"""Load the base model for a task."""

from __future__ import annotations

import torch

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.base import Base
from reflora_cli.model.classifier import load_classifier
from reflora_cli.model.language import load_language_model
from reflora_cli.recipe.sections import ModelSection
from reflora_cli.tasks.base import Mixture, PromptTask, SequenceTask, Task


def load_base(section: ModelSection, revision: str | None, task: Task, dtype: torch.dtype, seed: int) -> Base:
    """Load a recipe's base model, on the CPU, with the head that the task needs. Raises InputError."""
    match task:
        case SequenceTask():
            return load_classifier(section, revision, task, dtype=dtype, seed=seed)
        case PromptTask() | Mixture():
            if section.classifier_dropout is not None:
                what = f"task {task.name} has no classifier to put dropout before"
                where, found = "model.classifier_dropout", str(section.classifier_dropout)
                raise InputError(Problem(what, where, found, remedy="leave it out (null)"))
            return load_language_model(section, revision, dtype)
