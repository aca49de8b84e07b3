"""Match the kinds of tasks once for each question that training, evaluation and merging ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reflora_cli.data.pad import Padding
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.settings import EvalProtocol
from reflora_cli.model.base import Base
from reflora_cli.model.language import check_parts
from reflora_cli.model.precision import Compute
from reflora_cli.objectives.causal import causal_padding, check_packing
from reflora_cli.objectives.choices import Choices
from reflora_cli.objectives.generation import Generation
from reflora_cli.objectives.language import LanguageObjective, LanguageSettings
from reflora_cli.objectives.language_rows import language_examples, language_probe, language_rows, scored_by_loss
from reflora_cli.objectives.objective import Objective
from reflora_cli.objectives.prediction import Scorer
from reflora_cli.objectives.rows import Examples, Rows
from reflora_cli.objectives.sequence import SequenceObjective
from reflora_cli.objectives.sequence_rows import sequence_examples, sequence_probe, sequence_rows
from reflora_cli.recipe.sections import EvalSection, Recipe
from reflora_cli.tasks.base import Mixture, PromptTask, SequenceTask, Task


def load_examples(recipe: Recipe, task: Task) -> Examples:
    """Return the rows that a training run needs, as read. Raises InputError."""
    match task:
        case SequenceTask():
            refuse_language_keys(recipe, task)
            return sequence_examples(recipe, task)
        case PromptTask() | Mixture():
            return language_examples(recipe, task)


def encode_examples(recipe: Recipe, task: Task, base: Base, examples: Examples) -> Rows:
    """Return the rows that a training run needs, encoded. Raises InputError."""
    match task:
        case SequenceTask():
            return sequence_rows(recipe, task, base, examples)
        case PromptTask() | Mixture():
            return language_rows(recipe, task, base, examples)


def probe_rows(recipe: Recipe, task: Task, base: Base, kept: Path | None) -> list[Any]:
    """Return some encoded rows on which two forms of a model can be compared. Raises InputError.

    kept: the file in which a run keeps such rows; without it they are read from the recipe's data.
    """
    match task:
        case SequenceTask():
            return sequence_probe(recipe, task, base, kept)
        case PromptTask() | Mixture():
            return language_probe(recipe, task, base, kept)


def make_objective(recipe: Recipe, task: Task, base: Base, compute: Compute) -> Objective[Any]:
    """Return the objective: what is minimized and how it is scored. The base must be on its device."""
    match task:
        case SequenceTask():
            return SequenceObjective(task, base, compute)
        case PromptTask() | Mixture():
            padding = causal_padding(base, compute)
            check_parts(base, compute)
            if recipe.train.packing:
                check_packing(base, compute)
            settings = LanguageSettings(
                train_on_prompt=recipe.task.train_on_prompt,
                by_loss=scored_by_loss(recipe, task),
                packing=recipe.train.packing,
                padding=padding,
            )
            return LanguageObjective(base, compute, make_scorer(recipe.eval, base, compute, padding), settings)


def make_scorer(section: EvalSection, base: Base, compute: Compute, padding: Padding) -> Scorer:
    """Return the recipe's protocol, ready to score with the model."""
    match section.protocol:
        case EvalProtocol.LLM_ADAPTERS:
            return Generation(base, compute, section.num_beams, section.max_new_tokens)
        case EvalProtocol.CHOICES:
            return Choices(base, compute, padding)


def refuse_language_keys(recipe: Recipe, task: SequenceTask) -> None:
    """Raises InputError for settings of language models, which would have no effect here."""
    section = recipe.task
    idle = [
        ("task.train_on_prompt", section.train_on_prompt),
        ("task.validation_rows", section.validation_rows),
        ("train.packing", recipe.train.packing),
    ]
    problems = [
        Problem(f"{task.name} has labels, no prompts: the setting would do nothing", key, str(value))
        for key, value in idle
        if value
    ]
    if problems:
        raise InputError(*problems)
