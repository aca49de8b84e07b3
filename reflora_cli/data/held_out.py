"""Choose the training rows that are held out: the same ones whatever the seed of training, so that runs compare."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.examples import Example, PromptExample


def divided(
    examples: Sequence[Example], task: SequenceTask, wanted: int | str, where: str
) -> tuple[list[Example], list[Example]]:
    """Return the rows that stay in training and those that are held out, both in the order of the file.

    wanted: a number of rows, or a share such as `10%`. where: the setting that asks for it, and the data. Raises
    InputError where there are not as many rows.
    """
    held = held_out_rows(strata(examples, task), wanted, where)
    parts: tuple[list[Example], list[Example]] = ([], [])
    for index, example in enumerate(examples):
        parts[index in held].append(example)
    return parts


def divided_prompts(
    examples: Sequence[PromptExample], wanted: int | str, where: str
) -> tuple[list[PromptExample], list[PromptExample]]:
    """Return the rows that stay in training and those that are held out, both in the order of the file; all rows with
    one prompt are on the same side, and of rows without a prompt all with one text.

    wanted: a number of prompts, or a share such as `10%`. where: as in `divided`. Raises InputError where there are not
    as many.
    """
    asked = [example.prompt or example.answer for example in examples]
    prompts = list(dict.fromkeys(asked))
    held = {prompts[index] for index in held_out_rows([0.0] * len(prompts), wanted, where)}
    parts: tuple[list[PromptExample], list[PromptExample]] = ([], [])
    for prompt, example in zip(asked, examples, strict=True):
        parts[prompt in held].append(example)
    return parts


def held_out_rows(labels: Sequence[float], wanted: int | str, where: str) -> frozenset[int]:
    """Return the indices of the rows that are held out: of each label in proportion to its rows, and never its last.

    labels: what stands for the label of each row. where: as in `divided`. Raises InputError where there are not as many
    rows.
    """
    groups: dict[float, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(label, []).append(index)
    count = wanted if isinstance(wanted, int) else max(1, round(float(wanted.rstrip("%")) / 100 * len(labels)))
    if count > (most := len(labels) - len(groups)):
        each = "a row of each label" if len(groups) > 1 else "a row"
        found, expected = f"{count} of {len(labels)}", f"at most {most}: {each} stays in training"
        raise InputError(Problem("too many rows would be held out", where, found, expected))
    sizes = shares([len(rows) for rows in groups.values()], count)
    return frozenset(
        index for rows, size in zip(groups.values(), sizes, strict=True) for index in sorted(rows, key=drawn)[:size]
    )


def strata(examples: Sequence[Example], task: SequenceTask) -> list[float]:
    """Return what stands for the label of each row: its class, the rarest of its labels, or for numbers always 0."""
    if task.is_regression:
        return [0.0] * len(examples)
    own = [ids_of(example) for example in examples]
    counts = Counter(label for labels in own for label in labels)
    return [min(labels, key=lambda label: (counts[label], label), default=-1.0) for labels in own]


def ids_of(example: Example) -> list[float]:
    """Return the ids of the row's labels."""
    if isinstance(example.label, tuple):
        return [float(label) for label, has in enumerate(example.label) if has]
    return [example.label]


def drawn(index: int) -> str:
    """Return the row's place in an order that has nothing to do with that of the file."""
    return hashlib.sha256(f"held out {index}".encode()).hexdigest()


def shares(sizes: Sequence[int], count: int) -> list[int]:
    """Divide `count` in proportion to `sizes`, by largest remainders, and at most `size - 1` of each."""
    whole = sum(sizes)
    parts = [min(size - 1, count * size // whole) for size in sizes]
    order = sorted(range(len(sizes)), key=lambda index: (-(count * sizes[index] % whole), index))
    while (missing := count - sum(parts)) > 0:
        for index in [index for index in order if parts[index] < sizes[index] - 1][:missing]:
            parts[index] += 1
    return parts
