"""Batches of rows that are scored: every row once, and never more padded tokens than the longest rows have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflora_cli.objectives.score_batches import FEW, MOST, READ, WRITTEN, score_batches

lengths = st.lists(st.integers(1, 600), max_size=80)


@pytest.mark.parametrize("accepted", [READ, WRITTEN])
@given(lengths=lengths, size=st.integers(1, 12))
def test_every_row_comes_once_and_no_batch_takes_more_than_the_longest_rows(
    lengths: list[int], size: int, accepted: float
) -> None:
    batches = score_batches(lengths, size, accepted)
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[index] for index in order] == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) * max(lengths[index] for index in batch) <= size * max(lengths)
        assert len(batch) <= MOST * size


@given(lengths=lengths, size=st.integers(1, 12))
def test_written_batches_are_no_more_than_those_of_a_number_of_rows(lengths: list[int], size: int) -> None:
    assert len(score_batches(lengths, size, WRITTEN)) <= -(-len(lengths) // size)


@given(lengths=lengths, size=st.integers(4, 12))
def test_only_small_batches_that_are_read_once_have_much_padding(lengths: list[int], size: int) -> None:
    for batch in score_batches(lengths, size, READ):
        own = [lengths[index] for index in batch]
        padded = len(own) * max(own)
        is_small = padded - max(own) < FEW * size * max(lengths)
        assert is_small or padded <= (1 + READ) * sum(own)


def test_short_rows_are_more_in_a_batch() -> None:
    assert score_batches([10, 40, 20, 20, 20, 10], 2, WRITTEN) == [[1, 2], [3, 4, 0, 5]]
    lengths = [40, 40, *[20] * 4, *[5] * 9]
    assert [len(batch) for batch in score_batches(lengths, 2, WRITTEN)] == [2, 4, 8, 1]


def test_a_batch_that_is_read_once_ends_before_shorter_rows() -> None:
    assert score_batches([100, 99, 98, 60, 59], 8, READ) == [[0, 1, 2], [3, 4]]
    assert score_batches([100, 99, 98, 60, 59], 8, WRITTEN) == [[0, 1, 2, 3, 4]]
