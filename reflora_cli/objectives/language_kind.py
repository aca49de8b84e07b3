"""The kind of tasks for which a language model answers after a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from reflora_cli.data.encode_prompts import PromptRow
from reflora_cli.data.load import load_prompts, refuse_undivided
from reflora_cli.data.pad import Padding
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.settings import EvalProtocol
from reflora_cli.model.auto import load_config
from reflora_cli.model.base import Base
from reflora_cli.model.language import check_parts, load_language_model, vocabulary
from reflora_cli.model.precision import Compute
from reflora_cli.model.sources import Source
from reflora_cli.objectives.causal import causal_padding, check_packing
from reflora_cli.objectives.choices import Choices
from reflora_cli.objectives.kind import Kind
from reflora_cli.objectives.language import LanguageLoss, LanguageObjective, LanguageSettings
from reflora_cli.objectives.language_asking import LanguageAsking
from reflora_cli.objectives.language_code import answer_lines
from reflora_cli.objectives.language_rows import (
    language_examples,
    language_probe,
    language_rows,
    language_splits,
    main_metric,
    parts_to_score,
)
from reflora_cli.objectives.objective import Split
from reflora_cli.objectives.references import References
from reflora_cli.objectives.rows import Examples, Rows
from reflora_cli.objectives.scorer import Scorer
from reflora_cli.objectives.token_loss import LOGIT_BYTES, chunk_tokens
from reflora_cli.objectives.writer import writer_of, written_by
from reflora_cli.recipe.sections import EvalSection, ModelSection, Recipe
from reflora_cli.tasks.base import Answers, LanguageTask
from reflora_cli.tasks.prompts import Template


@final
@dataclass(frozen=True)
class LanguageKind(Kind):
    """A task whose model predicts the tokens of an answer; a mixture of tasks is one too."""

    task: LanguageTask
    auto_class = "AutoModelForCausalLM"
    peft_type = "CAUSAL_LM"
    pipeline_tag = "text-generation"
    protocols = tuple(EvalProtocol)
    shares_sequences = True

    def load_base(self, section: ModelSection, revision: str | None, dtype: torch.dtype, seed: int) -> Base:
        self.refuse_classifier(section)
        base = load_language_model(section, revision, dtype)
        template = next((part.chat_template for part in self.task.parts if part.chat_template), "")
        return base.with_chat_template(template) if template else base

    def refuse_classifier(self, section: ModelSection) -> None:
        """Raises InputError for a setting of classifiers."""
        if section.classifier_dropout is not None:
            what = (
                f"task {self.task.name} trains a language model, which has no classifier and so no classifier dropout"
            )
            where, found = "model.classifier_dropout", str(section.classifier_dropout)
            raise InputError(Problem(what, where, found, remedy="leave out model.classifier_dropout (null)"))

    def configure(self, section: ModelSection, source: Source) -> Any:
        self.refuse_classifier(section)
        return load_config(source.location, source.revision)

    def head(self, model: Any) -> tuple[str, ...]:
        del model
        return ()

    def loss_module(self, recipe: Recipe, model: nn.Module) -> LanguageLoss:
        return LanguageLoss(model, recipe.train.label_smoothing)

    def made_up_answers(self, rows: int, learned: int) -> dict[str, Tensor]:
        del rows
        return {"supervised": torch.arange(learned), "targets": torch.zeros(learned, dtype=torch.long)}

    def logits_bytes(self, model: Any, learned: int, device: str, memory: int) -> int:
        """Return the bytes of one chunk: logits, their logarithms and their gradient in float32."""
        return min(learned, chunk_tokens(model, device, memory)) * vocabulary(model) * LOGIT_BYTES

    def load_examples(self, recipe: Recipe) -> Examples:
        return language_examples(recipe, self.task)

    def encode(self, recipe: Recipe, base: Base, examples: Examples) -> Rows:
        return language_rows(recipe, self.task, base, examples)

    def make_objective(self, recipe: Recipe, base: Base, compute: Compute) -> LanguageObjective:
        padding = causal_padding(base, compute)
        check_parts(base, compute)
        if recipe.train.packing:
            check_packing(base, compute)
        scorer = self.make_scorer(recipe.eval, base, compute, padding)
        settings = LanguageSettings(
            train_on_prompt=recipe.task.learns_all,
            main_metric=main_metric(recipe, self.task),
            packing=recipe.train.packing,
            padding=padding,
            label_smoothing=recipe.train.label_smoothing,
            writer=writer_of(scorer, recipe.eval, base, compute) if recipe.eval.samples else None,
        )
        return LanguageObjective(base, compute, scorer, settings)

    def make_scorer(self, section: EvalSection, base: Base, compute: Compute, padding: Padding) -> Scorer:
        """Return what finds the answers of the task. Raises InputError if no one way finds those of all parts."""
        ways = {part.answers for part in self.task.parts} - {Answers.LOSS}
        if len(ways) > 1:
            what = "these tasks cannot be scored together: some have candidate answers, others free texts"
            remedy = "train on one after the other (method.after), or score each by itself (--task)"
            raise InputError(Problem(what, "task.name", self.task.name, remedy=remedy))
        if ways == {Answers.COMPARED}:
            if section.protocol is EvalProtocol.CHOICES:
                what, remedy = f"{self.task.name} has no candidate answers to compare", "leave eval.protocol out"
                raise InputError(Problem(what, "eval.protocol", section.protocol.value, remedy=remedy))
            return References(written_by(section, base, compute))
        return protocol(section, base, compute, padding)

    def probe_rows(self, recipe: Recipe, base: Base, kept: Path | None) -> list[PromptRow]:
        return language_probe(recipe, self.task, base, kept)

    def splits(self, recipe: Recipe, base: Base, split: str | None, limit: int | None) -> Iterator[Split]:
        refuse_undivided(self.task, recipe.task.data)
        return language_splits(recipe, self.task, base, split, limit)

    def asking_code(self, labels: str) -> list[str]:
        del labels
        return answer_lines(self.task)

    def asking(self, wording: Template | None) -> LanguageAsking:
        return LanguageAsking(self.task, wording)

    def refuse_unscorable(self, recipe: Recipe, split: str | None) -> None:
        for _, part, name in parts_to_score(self.task, split):
            load_prompts(part, recipe.task.data, name, 1)

    def scores_held_out(self, recipe: Recipe, split: str | None = None) -> bool:
        if recipe.task.validation is not None:
            return all(split in (None, *part.evaluation) for part in self.task.parts)
        free = all(part.answers is Answers.LOSS for part in self.task.parts)
        return split is None and free and recipe.task.validation_rows is not None


def protocol(section: EvalSection, base: Base, compute: Compute, padding: Padding) -> Scorer:
    """Return the recipe's protocol, ready to score with the model."""
    match section.protocol:
        case EvalProtocol.LLM_ADAPTERS:
            return written_by(section, base, compute)
        case EvalProtocol.CHOICES:
            return Choices(base, compute, padding)
