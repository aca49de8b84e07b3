"""Find the kind of a task: the only place that tells one kind from another."""

from __future__ import annotations

from reflora_cli.objectives.kind import Kind
from reflora_cli.objectives.language_kind import LanguageKind
from reflora_cli.objectives.sequence_kind import SequenceKind
from reflora_cli.tasks.base import Mixture, PromptTask, SequenceTask, Task


def kind_of(task: Task) -> Kind:
    """Return the task with everything that its kind decides."""
    match task:
        case SequenceTask():
            return SequenceKind(task)
        case PromptTask() | Mixture():
            return LanguageKind(task)
