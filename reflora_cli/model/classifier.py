"""Load a base model with a sequence-level head.

Modules that the checkpoint lacks (the task's head, DeBERTa's pooler) are drawn from the run's seed and remembered as
fresh, because they must travel with the adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.auto import auto_class, load_config
from reflora_cli.model.base import Base, outermost
from reflora_cli.model.labels import labelled, name_outputs, said_labels
from reflora_cli.model.load import load_pretrained
from reflora_cli.model.sources import Source, find_source
from reflora_cli.recipe.sections import ModelSection
from reflora_cli.tasks.base import SequenceTask

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

DROPOUT_FIELDS = ("classifier_dropout", "cls_dropout", "seq_classif_dropout", "classifier_dropout_prob")
"""Config fields with the dropout before the classification head."""
UNLISTED_DROPOUT = {"deberta": "cls_dropout", "deberta-v2": "cls_dropout"}
"""Fields that architectures read although their configuration does not list them."""


def load_classifier(
    section: ModelSection, revision: str | None, task: SequenceTask, *, dtype: torch.dtype, seed: int
) -> Base:
    """Load a base model with a sequence-level head for `task` on the CPU; nothing is frozen yet.

    Fresh parameters are drawn under `seed`. Raises InputError for a model that cannot be found, read or used.
    """
    said: tuple[str, ...] = ()

    def configure(source: Source) -> Any:
        nonlocal said
        torch.manual_seed(seed)
        config = head_config(source, section.classifier_dropout)
        said = said_labels(config)
        name_outputs(config, task.label_names)
        config.problem_type = task.problem_type
        return config

    source = find_source(section.name, revision)
    base, report = load_pretrained(auto_class("AutoModelForSequenceClassification"), section, source, dtype, configure)
    head = head_modules(base.model)
    missing = {*report["missing_keys"], *resized(source, report, head)}
    fresh = outermost({parameter.rpartition(".")[0] for parameter in missing})
    brings_head = bool(head) and not any(name.startswith(f"{head[-1]}.") for name in missing)
    return labelled(replace(base, fresh=fresh, head=head), task, said if brings_head else ())


def head_config(source: Source, dropout: float | None) -> PretrainedConfig:
    """Return the base's config with the dropout of the head set."""
    config = load_config(source.location, source.revision)
    if dropout is not None:
        listed = next((field for field in DROPOUT_FIELDS if hasattr(config, field)), None)
        field = listed or UNLISTED_DROPOUT.get(config.model_type)
        if field is None:
            what = f"a {config.model_type} model has no dropout before its head"
            raise InputError(
                Problem(
                    what, "model.classifier_dropout", str(dropout), remedy="leave out model.classifier_dropout (null)"
                )
            )
        setattr(config, field, dropout)
    return config


def head_modules(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the top-level modules with parameters beside the pretrained body: the task's head, and DeBERTa's
    pooler.
    """
    return tuple(
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and any(True for _ in child.parameters())
    )


def resized(source: Source, report: dict[str, Any], head: Sequence[str]) -> set[str]:
    """Return the parameters of the head that the checkpoint has for another number of labels: they are drawn anew.

    Raises InputError for any other weight of another shape, which would be silently random.
    """
    names = {str(entry[0]) if isinstance(entry, tuple) else str(entry) for entry in report["mismatched_keys"]}
    body = sorted(name for name in names if not any(name.startswith(f"{module}.") for module in head))
    if body:
        what = "weights of the base do not fit its architecture"
        raise InputError(Problem(what, f"model.name: {source.name}", found=", ".join(body[:3])))
    return names
