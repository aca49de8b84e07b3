"""Say what a task reads, how it asks and how it is scored, for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reflora_cli.tasks.base import Answers, Mixture, PromptTask, SequenceTask, Task
from reflora_cli.tasks.examples import PromptExample, Row
from reflora_cli.tasks.sources import BuiltinSource, HubSource
from reflora_cli.tasks.token_losses import TokenLosses

SAMPLES: Mapping[str, Row] = {
    "builtin/questions": {
        "question": "What is the cup made of?",
        "choices": ["clay", "iron", "wool", "wood"],
        "answer": 0,
    },
    "instruct": {"instruction": "Name a planet.", "output": "Mars"},
    "nlg/e2e": {"meaning": "name : Blue Spice | Type : coffee shop", "text": "Blue Spice is a coffee shop ."},
    "nlg/webnlg": {"triples": "Mars | type | planet", "text": "Mars is a planet ."},
}
"""A made-up row for each task that asks by a prompt; those of commonsense have one layout."""
CANDIDATES = 4
"""The most candidates of a made-up question."""


@dataclass(frozen=True)
class DescribedTask:
    """A task as it is shown. asks: what the model gets. labels: none for free text. example: a made-up row put as a
    prompt, and the answer that is learned; empty where texts are read as they are.
    """

    name: str
    asks: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    source: str
    trained_on: str
    scored_on: tuple[str, ...]
    example: tuple[str, str] | None
    parts: tuple[str, ...]


def described_task(task: Task) -> DescribedTask:
    """Return what is known of a task."""
    match task:
        case SequenceTask():
            return described_sequence(task)
        case PromptTask():
            return described_prompt(task)
        case Mixture():
            return described_mixture(task)


def described_sequence(task: SequenceTask) -> DescribedTask:
    """Return what is known of a task that labels texts."""
    read = "a pair of texts" if len(task.text) == 2 else "one text"
    kind = "a number" if task.is_regression else "any of several labels" if task.several else "one of several labels"
    bounds = "{:g} to {:g}".format(*task.label_range) if task.label_range else ""
    return DescribedTask(
        name=task.name,
        asks=f"{kind} for {read}: {', '.join(task.text)}",
        columns=task.columns,
        labels=task.label_names or ((bounds,) if bounds else ()),
        metrics=tuple(task.metrics),
        source=source_of(task),
        trained_on=task.train,
        scored_on=task.evaluation,
        example=None,
        parts=(),
    )


def described_prompt(task: PromptTask) -> DescribedTask:
    """Return what is known of a task that has an answer written."""
    row = sample(task)
    example = task.example(row)
    return DescribedTask(
        name=task.name,
        asks={
            Answers.CHOSEN: "the right one of several candidate answers to a prompt",
            Answers.COMPARED: "a generated answer to a prompt, compared with references",
            Answers.LOSS: "a text that follows a prompt, scored by its loss",
        }[task.answers],
        columns=task.columns,
        labels=tuple(task.pattern.split("|"))
        if task.pattern
        else example.labels and ("the candidate answers of each row",),
        metrics=metrics_of(task),
        source=source_of(task),
        trained_on=task.train,
        scored_on=task.evaluation,
        example=shown(example),
        parts=(),
    )


def described_mixture(task: Mixture) -> DescribedTask:
    """Return what is known of several tasks that are trained as one."""
    parts = [described_prompt(part) for part in task.parts]
    first = parts[0]
    return DescribedTask(
        name=task.name,
        asks=f"{len(parts)} tasks, trained together and scored separately: {first.asks}",
        columns=first.columns,
        labels=("those of each task",),
        metrics=first.metrics,
        source="; ".join(part.source for part in parts),
        trained_on=task.train,
        scored_on=first.scored_on,
        example=first.example,
        parts=tuple(part.name for part in parts),
    )


def metrics_of(task: PromptTask) -> tuple[str, ...]:
    """Return the names of a task's scores, the main one first."""
    tally = TokenLosses([0.0], 1, 1) if task.answers is Answers.LOSS else task.tally()
    return tuple(tally.scores())


def sample(task: PromptTask) -> Row:
    """Return a made-up row: the registered one, or a question in the layout of the commonsense tasks."""
    if task.name in SAMPLES:
        return SAMPLES[task.name]
    labels = task.pattern.split("|")[:CANDIDATES]
    choices = " ".join(f"{label[:1].upper()}{label[1:]}: ..." for label in labels)
    question = f"Please choose the correct answer to the question: Which is a planet?\n\n{choices}\n\n"
    output = f"the correct answer is {labels[0]}"
    return {
        "instruction": f"{question}Answer format: {'/'.join(labels)}",
        "input": "",
        "output": output,
        "answer": labels[0],
    }


def shown(example: PromptExample) -> tuple[str, str]:
    return example.prompt, example.answer


def source_of(task: SequenceTask | PromptTask) -> str:
    """Return where a task's rows are, unless the recipe says otherwise."""
    match task.source:
        case HubSource(repository, config):
            return f"hub:{repository}{f'/{config}' if config else ''}"
        case BuiltinSource():
            return "comes with reflora"
        case None:
            return "your own files: task.data=PATH"
