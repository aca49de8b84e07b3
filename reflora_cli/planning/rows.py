"""How many rows and tokens a run reads, in how many steps, and which batch is its largest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reflora_cli.data.batches import cut
from reflora_cli.data.pack import first_fit
from reflora_cli.ground.errors import InputError
from reflora_cli.objectives.pick import kind_of
from reflora_cli.objectives.rows import Examples, Rows
from reflora_cli.planning.passes import Batch
from reflora_cli.planning.skeleton import Plain
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.training.prepare import sampler_of

BINS = 8
"""The number of bars of a histogram of lengths."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows. tokens: those of rows. padded: those that go through the model. largest: the
    largest batch of one device. sequences: the number of sequences that go through the model. lengths: the number of
    different counts of tokens that batches have; learned: that of counts of learned places.
    """

    tokens: int
    padded: int
    sequences: int
    largest: Batch
    lengths: int
    learned: int


@dataclass(frozen=True)
class Lengths:
    """The lengths of training rows in tokens. bars: (from, to, rows), both ends included. cut: the number of rows that
    max_length cuts. dropped: that of rows which lose their whole answer by that.
    """

    rows: int
    tokens: int
    shortest: int
    longest: int
    median: int
    bars: tuple[tuple[int, int, int], ...]
    cut: int
    dropped: int


def read_rows(recipe: Recipe, plain: Plain, base: Any) -> tuple[Examples, Rows] | str:
    """Return the rows of a run, as read and encoded, or why they cannot be read now.

    base: the base, of which only the tokenizer is used. Raises InputError for data of the user's that are wrong.
    """
    if plain.tokenizer is None:
        return "the tokenizer is not available"
    try:
        examples = plain.kind.load_examples(recipe)
    except InputError as error:
        if recipe.task.data.partition(":")[0] == "hub":
            return f"the data are not available: {error.problems[0].what}"
        raise
    return examples, plain.kind.encode(recipe, base, examples)


def lengths_of(recipe: Recipe, plain: Plain, base: Any, examples: Examples, rows: Rows) -> Lengths:
    """Return the lengths of the training rows."""
    limit = recipe.task.max_length
    found = sorted(len(row.input_ids) for row in rows.training)
    cut_rows = 0
    if found[-1] >= limit:  # some are cut, or exactly as long: one more token tells them apart
        longer = recipe.model_copy(update={"task": recipe.task.model_copy(update={"max_length": limit + 1})})
        others = plain.kind.encode(longer, base, examples).training
        cut_rows = sum(len(row.input_ids) > limit for row in others)
    middle = found[len(found) // 2]
    return Lengths(len(found), sum(found), found[0], found[-1], middle, bars(found), cut_rows, rows.dropped)


def bars(lengths: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Return a histogram of sorted lengths: (from, to, rows), both ends included."""
    low, high = lengths[0], lengths[-1]
    width = max(1, -(-(high - low + 1) // BINS))
    starts = range(low, high + 1, width)
    counts = [0] * len(starts)
    for length in lengths:
        counts[(length - low) // width] += 1
    return tuple((at, min(at + width - 1, high), count) for at, count in zip(starts, counts, strict=True))


def epoch_of(recipe: Recipe, rows: Rows, weight: Callable[[Any], int], processes: int, multiple: int) -> Epoch:
    """Return what the first epoch reads, batch by batch as training makes them. weight: the number of places of a row
    that are learned from.
    """
    train, sampler = recipe.train, sampler_of(recipe, rows)
    lengths = [len(row.input_ids) for row in rows.training]
    typed = getattr(rows.training[0], "token_type_ids", None) is not None
    tokens = padded = sequences = 0
    largest, shapes, counts = Batch(0, 0, 0), set(), set()
    shared = shares_sequences(recipe)
    for step in range(sampler.steps_per_epoch):
        alike = sorted(sampler.step_rows(step), key=lambda row: lengths[row])
        for rank in range(processes):
            for chunk in cut(alike[rank::processes], train.micro_batch_size):
                own = [lengths[row] for row in chunk]
                count, length, computed = computed_shape(recipe, own, multiple)
                tokens, sequences, padded = tokens + sum(own), sequences + count, padded + computed
                learned = sum(weight(rows.training[row]) for row in chunk)
                shapes.add((count, length))
                counts.add(learned)
                if (count * length, length) > (largest.rows * largest.length, largest.length):
                    largest = Batch(count, length, learned, shared, typed)
    return Epoch(tokens, padded, sequences, largest, len(shapes), len(counts))


def computed_shape(recipe: Recipe, lengths: Sequence[int], multiple: int) -> tuple[int, int, int]:
    """Return the sequences of a batch of rows with these lengths, their common length, and the number of tokens that go
    through most of the model: without padding where a classifier's rows are packed. multiple: lengths are padded to one
    of it.
    """
    shared = shares_sequences(recipe)
    count = len(first_fit(lengths)) if shared else len(lengths)
    length = -(-max(lengths) // multiple) * multiple
    return count, length, sum(lengths) if recipe.train.packing and not shared else count * length


def assumed_batch(recipe: Recipe, processes: int) -> Batch:
    """Return the largest batch that is possible, where rows are not known: every row of max_length tokens."""
    train, length = recipe.train, recipe.task.max_length
    rows = max(1, min(train.micro_batch_size, -(-train.batch_size // processes)))
    learned = rows * (length - 1)
    return Batch(rows, length, learned, shares_sequences(recipe))


def shares_sequences(recipe: Recipe) -> bool:
    """Whether packed rows share sequences. A classifier's do not, and its batch is planned with its padding, which
    only its embeddings and its attention have: so the plan is no smaller than the run.
    """
    return recipe.train.packing and kind_of(task_of(recipe.task)).shares_sequences
