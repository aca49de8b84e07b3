"""The kind of tasks that label texts: a classifier or a regression, with a head of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from reflora_cli.data.encode import EncodedRow
from reflora_cli.data.load import load_split
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.base import Base
from reflora_cli.model.classifier import head_config, head_modules, load_classifier
from reflora_cli.model.labels import name_outputs
from reflora_cli.model.precision import Compute
from reflora_cli.model.sources import Source
from reflora_cli.objectives.kind import Kind
from reflora_cli.objectives.objective import Split
from reflora_cli.objectives.rows import Examples, Rows
from reflora_cli.objectives.sequence import SequenceLoss, SequenceObjective
from reflora_cli.objectives.sequence_asking import SequenceAsking
from reflora_cli.objectives.sequence_code import label_lines
from reflora_cli.objectives.sequence_rows import sequence_examples, sequence_probe, sequence_rows, sequence_splits
from reflora_cli.recipe.sections import ModelSection, Recipe
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.prompts import Template


@final
@dataclass(frozen=True)
class SequenceKind(Kind):
    """A task whose model has one output for each label, or a single one for a number."""

    task: SequenceTask
    auto_class = "AutoModelForSequenceClassification"
    peft_type = "SEQ_CLS"
    pipeline_tag = "text-classification"

    @property
    def base_arguments(self) -> Mapping[str, object]:
        return {"num_labels": max(1, len(self.task.label_names))}

    def load_base(self, section: ModelSection, revision: str | None, dtype: torch.dtype, seed: int) -> Base:
        return load_classifier(section, revision, self.task, dtype=dtype, seed=seed)

    def configure(self, section: ModelSection, source: Source) -> Any:
        config = head_config(source, section.classifier_dropout)
        name_outputs(config, self.task.label_names)
        config.problem_type = self.task.problem_type
        return config

    def head(self, model: Any) -> tuple[str, ...]:
        return head_modules(model)

    def loss_module(self, recipe: Recipe, model: nn.Module) -> SequenceLoss:
        return SequenceLoss(model, torch.zeros(len(self.task.weights)) if self.task.weights else None)

    def made_up_answers(self, rows: int, learned: int) -> dict[str, Tensor]:
        del learned
        if self.task.several:
            return {"labels": torch.zeros(rows, len(self.task.label_names))}
        return {"labels": torch.zeros(rows, dtype=torch.float32 if self.task.is_regression else torch.long)}

    def logits_bytes(self, model: Any, learned: int, device: str, memory: int) -> int:
        return 0

    def load_examples(self, recipe: Recipe) -> Examples:
        self.refuse_idle(recipe)
        return sequence_examples(recipe, self.task)

    def encode(self, recipe: Recipe, base: Base, examples: Examples) -> Rows:
        return sequence_rows(recipe, self.task, base, examples)

    def make_objective(self, recipe: Recipe, base: Base, compute: Compute) -> SequenceObjective:
        return SequenceObjective(self.task, base, compute)

    def probe_rows(self, recipe: Recipe, base: Base, kept: Path | None) -> list[EncodedRow]:
        return sequence_probe(recipe, self.task, base, kept)

    def splits(self, recipe: Recipe, base: Base, split: str | None, limit: int | None) -> Iterator[Split]:
        return iter(sequence_splits(recipe, self.task, base, split, limit))

    def refuse_unscorable(self, recipe: Recipe, split: str | None) -> None:
        for name in (split,) if split else self.task.evaluation:
            load_split(self.task, recipe.task.data, name, 1)

    def scores_held_out(self, recipe: Recipe, split: str | None = None) -> bool:
        if recipe.task.validation_rows is not None:
            return split is None
        return recipe.task.validation is not None and split in (None, *self.task.evaluation)

    def asking_code(self, labels: str) -> list[str]:
        return label_lines(self.task, labels)

    def asking(self, wording: Template | None) -> SequenceAsking:
        if wording is not None:
            what = f"--raw has no effect: {self.task.name} has labels and no prompts, so its texts are read as they are"
            raise InputError(Problem(what, "--raw", remedy="leave out --raw"))
        return SequenceAsking(self.task)

    def refuse_idle(self, recipe: Recipe) -> None:
        """Raises InputError for settings of language models, which would have no effect here."""
        section = recipe.task
        idle = [
            ("task.train_on_prompt", section.train_on_prompt),
            ("eval.samples", recipe.eval.samples),
            ("train.label_smoothing", recipe.train.label_smoothing),
            ("eval.cache", recipe.eval.cache if recipe.eval.cache != "dynamic" else ""),
        ]
        what = f"has no effect: {self.task.name} has labels, and this setting is for language models"
        problems = [
            Problem(f"{key} {what}", key, str(value), remedy=f"leave out {key}") for key, value in idle if value
        ]
        if problems:
            raise InputError(*problems)
