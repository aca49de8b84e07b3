"""The two sequence-level tasks about the embedded world (`reflora_cli.builtin`): no download, a minute to learn."""

from __future__ import annotations

from reflora_cli.tasks.base import BuiltinSource, Task
from reflora_cli.tasks.metrics import accuracy, matthews

ACCEPTABILITY = Task(
    name="builtin/acceptability",
    source=BuiltinSource("acceptability"),
    text=("sentence",),
    label_names=("corrupted", "grammatical"),
    metrics={"accuracy": accuracy, "matthews": matthews},
    notes="Is the sentence well formed? Half of them carry one grammatical fault.",
)

ENTAILMENT = Task(
    name="builtin/entailment",
    source=BuiltinSource("entailment"),
    text=("premise", "hypothesis"),
    label_names=("entailment", "not_entailment"),
    metrics={"accuracy": accuracy},
    notes="Does the premise entail the hypothesis?",
)

TASKS = (ACCEPTABILITY, ENTAILMENT)
