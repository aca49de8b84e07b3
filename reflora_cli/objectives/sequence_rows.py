"""Load and encode the rows of a sequence-level task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from reflora_cli.data.encode import EncodedRow, encode, refuse_short
from reflora_cli.data.held_out import divided, ids_of
from reflora_cli.data.load import form_of, load_divided, load_split
from reflora_cli.data.own_labels import in_words
from reflora_cli.model.base import Base
from reflora_cli.objectives.objective import Split
from reflora_cli.objectives.rows import (
    HELD_OUT,
    PROBED,
    Examples,
    Rows,
    kept_examples,
    refuse_one_file,
    wants_evaluation,
)
from reflora_cli.recipe.sections import Recipe
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.examples import Example


def sequence_examples(recipe: Recipe, task: SequenceTask) -> Examples:
    """Return the training split and, unless evaluation is off, the evaluation splits."""
    section, is_scored = recipe.task, wants_evaluation(recipe)
    if section.validation_rows is not None:
        # Without evaluations too: they are what `reflora eval` scores afterwards.
        training, held_out = held_out_examples(recipe, task, section.validation_rows)
        training = training[: section.max_train_rows]
        scored_rows = {HELD_OUT: held_out[: section.max_eval_rows]} if is_scored else {}
        return {task.train: training, **scored_rows}
    parts = load_divided(task, section.data) if is_scored else None
    if parts is not None:
        training, held_out = parts
        scored = dict.fromkeys(task.evaluation, held_out[: section.max_eval_rows])
        return {task.train: training[: section.max_train_rows], **scored}
    examples = {task.train: load_split(task, section.data, task.train, section.max_train_rows)}
    if is_scored:
        refuse_one_file(recipe)
        for split in task.evaluation:
            examples[split] = load_split(task, section.data, split, section.max_eval_rows)
    return examples


def held_out_examples(recipe: Recipe, task: SequenceTask, count: int) -> tuple[list[Example], list[Example]]:
    """Return the training rows that are learned from and those that `task.validation_rows` holds out: the same ones
    for every seed and method, of each label in proportion. Raises InputError where there are not as many rows.
    """
    examples = load_split(task, recipe.task.data, task.train, None)
    return divided(examples, task, count, f"task.validation_rows: {recipe.task.data}")


def sequence_rows(recipe: Recipe, task: SequenceTask, base: Base, examples: Examples) -> Rows:
    """Return the examples, encoded. Raises InputError for a `max_length` with which nothing could be learned."""
    refuse_short(base.tokenizer, len(task.text), recipe.task.max_length)
    encoded = {name: encode(base.tokenizer, rows, recipe.task.max_length) for name, rows in examples.items()}
    names = task.evaluation if recipe.task.validation_rows is None else (HELD_OUT,)
    splits = [Split(name, encoded[name]) for name in names if name in encoded]
    return Rows(encoded[task.train], splits, facts=facts_of(recipe, task, examples[task.train]))


def facts_of(recipe: Recipe, task: SequenceTask, training: Sequence[Example]) -> dict[str, str]:
    """Return what the user of a task of his own should see: how the file was read, and the labels of training rows."""
    if task.own is None:
        return {}
    counts = Counter(label for row in training for label in ids_of(row))
    named = {name: counts[float(label)] for label, name in enumerate(task.label_names)}
    form = form_of(recipe.task.data, task, task.train)
    return {**({"file": form} if form else {}), **({"labels": in_words(named)} if named else {})}


def sequence_splits(
    recipe: Recipe, task: SequenceTask, base: Base, split: str | None, limit: int | None
) -> list[Split]:
    """Return the splits to be scored, encoded. split: None for those of training: the rows that it held out, if the
    recipe says how many, or else the task's evaluation splits.
    """
    section, tokenizer = recipe.task, base.tokenizer
    if split is None and section.validation_rows is not None:
        rows = held_out_examples(recipe, task, section.validation_rows)[1][: limit or section.max_eval_rows]
        return [Split(HELD_OUT, encode(tokenizer, rows, section.max_length), data_split=task.train)]
    names = (split,) if split else task.evaluation
    return [
        Split(
            name,
            encode(tokenizer, load_split(task, section.data, name, limit or section.max_eval_rows), section.max_length),
            data_split=name,
        )
        for name in names
    ]


def sequence_probe(recipe: Recipe, task: SequenceTask, base: Base, kept: Path | None) -> list[EncodedRow]:
    """Return the rows that a run has kept, or else some of the first evaluation split."""
    examples = kept_examples(kept, Example) if kept else None
    if examples is None:
        examples = load_split(task, recipe.task.data, task.evaluation[0], PROBED)
    return encode(base.tokenizer, examples, recipe.task.max_length)
