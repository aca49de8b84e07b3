"""Batches of rows that are scored: every row once, and never more padded tokens than the longest rows have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reflora_cli.objectives.score_batches import MOST, score_batches

lengths = st.lists(st.integers(1, 600), max_size=80)


@given(lengths=lengths, size=st.integers(1, 12))
def test_every_row_comes_once_and_no_batch_takes_more_than_the_longest_rows(lengths: list[int], size: int) -> None:
    batches = score_batches(lengths, size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) * max(lengths[index] for index in batch) <= size * max(lengths)
        assert len(batch) <= MOST * size


@given(lengths=lengths, size=st.integers(1, 12))
def test_batches_are_no_more_than_those_of_a_number_of_rows(lengths: list[int], size: int) -> None:
    batches = score_batches(lengths, size)
    assert len(batches) <= -(-len(lengths) // size)
    order = [lengths[index] for batch in batches for index in batch]
    assert order == sorted(lengths, reverse=True)


def test_short_rows_are_more_in_a_batch() -> None:
    assert score_batches([10, 40, 20, 20, 20, 10], 2) == [[1, 2], [3, 4, 0, 5]]
    lengths = [40, 40, *[20] * 4, *[5] * 9]
    assert [len(batch) for batch in score_batches(lengths, 2)] == [2, 4, 8, 1]
