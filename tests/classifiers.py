"""Tiny random classifiers on the CPU, with what trains them and a few rows of unequal length."""

from __future__ import annotations

import torch

from reflora_cli.data.encode import EncodedRow, encode
from reflora_cli.model.base import Base
from reflora_cli.model.classifier import head_modules
from reflora_cli.model.precision import Compute
from reflora_cli.model.sources import Source
from reflora_cli.objectives.sequence import SequenceObjective
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.examples import Example
from reflora_cli.tasks.registry import find_task
from tests.architectures import DECODERS, ENCODERS
from tests.random_models import classifier, widened

CPU = Compute(torch.device("cpu"), torch.float32)
TEXTS = ("a cup of tea", "the box is small", "no", "a large wooden box stands in the kitchen near the lamp", "a box")


def base(name: str) -> Base:
    """A classifier of two labels, of a type that `tests/architectures.py` has, with its tokenizer."""
    architecture = (ENCODERS | DECODERS)[name]
    torch.manual_seed(0)
    model = widened(classifier(architecture, num_labels=2), 0.15).eval()
    return Base(model, architecture.tokenizer(), Source("tiny", "tiny", None, True), None, (), head_modules(model))


def objective(own: Base) -> SequenceObjective:
    """What trains a classifier on a task of two labels."""
    task = find_task("glue/sst2")
    assert isinstance(task, SequenceTask)
    return SequenceObjective(task, own, CPU)


def rows_of(own: Base) -> list[EncodedRow]:
    """The texts as a tokenizer's rows, their labels in turn."""
    return encode(own.tokenizer, [Example((text,), index % 2) for index, text in enumerate(TEXTS)], 40)
