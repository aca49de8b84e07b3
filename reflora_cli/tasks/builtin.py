"""The tasks about the embedded world (`reflora_cli.builtin`): no download, a minute to learn."""

from __future__ import annotations

from reflora_cli.tasks.base import PromptTask, SequenceTask
from reflora_cli.tasks.examples import PromptExample, Row
from reflora_cli.tasks.metrics import accuracy, matthews
from reflora_cli.tasks.prompts import Template
from reflora_cli.tasks.sources import BuiltinSource

# Is the sentence well formed? Half of them carry one grammatical fault.
ACCEPTABILITY = SequenceTask(
    name="builtin/acceptability",
    source=BuiltinSource("acceptability"),
    text=("sentence",),
    label_names=("corrupted", "grammatical"),
    metrics={"accuracy": accuracy, "matthews": matthews},
)

# Does the premise entail the hypothesis?
ENTAILMENT = SequenceTask(
    name="builtin/entailment",
    source=BuiltinSource("entailment"),
    text=("premise", "hypothesis"),
    label_names=("entailment", "not_entailment"),
    metrics={"accuracy": accuracy},
)


WORDING = "Question: {instruction} Answer:"
QUESTION = Template(WORDING, WORDING)
"""The wording that the tiny model has read; its questions have no further input."""


def question_example(row: Row) -> PromptExample:
    """Return a row as a prompt; the candidates are the choices themselves."""
    choices, right = row["choices"], row["answer"]
    if not all(isinstance(choice, str) for choice in choices):
        raise ValueError("'choices' holds something that is not a text")
    if not 0 <= right < len(choices):
        raise ValueError(f"'answer' {right} is not the number of one of {len(choices)} choices, counted from 0")
    prompt = QUESTION.fill(row["question"], "")
    candidates = tuple(f" {choice}" for choice in choices)
    return PromptExample(prompt, candidates[right], prompt, candidates, tuple(choices), choices[right])


# Multiple choice about the facts: four choices, one right.
QUESTIONS = PromptTask(
    name="builtin/questions",
    source=BuiltinSource("questions"),
    fields={"question": str, "choices": list, "answer": int},
    example=question_example,
    template=QUESTION,
    evaluation=("validation",),
)

TASKS = (ACCEPTABILITY, ENTAILMENT, QUESTIONS)
