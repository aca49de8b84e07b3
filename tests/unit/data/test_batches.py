"""Which rows make up a step: every row once per epoch, whatever the processes and micro-batches."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from reflora_cli.data.batches import StepSampler, collate, micro_batches
from reflora_cli.data.encode import EncodedRow

sizes = st.integers(1, 60)


@given(rows=sizes, batch=sizes, seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_an_epoch_visits_every_row_once(rows: int, batch: int, seed: int, epoch: int) -> None:
    sampler = StepSampler(rows, batch, seed)
    first = epoch * sampler.steps_per_epoch
    steps = [sampler.step_rows(step) for step in range(first, first + sampler.steps_per_epoch)]
    assert sorted(index for step in steps for index in step) == list(range(rows))
    assert all(len(step) == batch for step in steps[:-1])


@given(
    batch=st.integers(1, 8),
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=200),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 2),
)
def test_grouping_by_length_still_visits_every_row_once(batch: int, lengths: list[int], seed: int, epoch: int) -> None:
    sampler = StepSampler(len(lengths), batch, seed, lengths)
    first = epoch * sampler.steps_per_epoch
    steps = [sampler.step_rows(step) for step in range(first, first + sampler.steps_per_epoch)]
    assert sorted(index for step in steps for index in step) == list(range(len(lengths)))
    assert all(len(step) == batch for step in steps[:-1])
    again = StepSampler(len(lengths), batch, seed, lengths)
    assert [again.step_rows(step) for step in range(first, first + sampler.steps_per_epoch)] == steps


def test_grouped_steps_need_less_padding_and_come_in_no_order() -> None:
    lengths = [int(length) for length in torch.randint(4, 60, (4000,), generator=torch.Generator().manual_seed(0))]

    def padded(sampler: StepSampler) -> int:
        steps = [sampler.step_rows(step) for step in range(sampler.steps_per_epoch)]
        return sum(len(step) * max(lengths[row] for row in step) for step in steps)

    plain, grouped = StepSampler(4000, 32, 0), StepSampler(4000, 32, 0, lengths)
    assert padded(grouped) < 1.05 * sum(lengths) < 0.6 * padded(plain)
    longest = [max(lengths[row] for row in grouped.step_rows(step)) for step in range(grouped.steps_per_epoch)]
    changes = [a < b for a, b in itertools.pairwise(longest)]
    assert 0.3 < sum(changes) / len(changes) < 0.7


def test_order_changes_with_seed_and_epoch_and_is_a_function_of_the_step() -> None:
    sampler = StepSampler(50, 50, 0)
    orders = [sampler.step_rows(0), sampler.step_rows(1), StepSampler(50, 50, 1).step_rows(0)]
    assert len({tuple(order) for order in orders}) == 3
    assert sampler.step_rows(0) == StepSampler(50, 50, 0).step_rows(0)


@given(rows=sizes, processes=st.integers(1, 5), size=st.integers(1, 20))
def test_processes_share_a_step_without_loss_or_repeat(rows: int, processes: int, size: int) -> None:
    """Every process gets the same number of chunks, or collective operations would wait for ever."""
    shares = [micro_batches(list(range(rows)), rank, processes, size) for rank in range(processes)]
    assert sorted(index for share in shares for chunk in share for index in chunk) == list(range(rows))
    assert len({len(share) for share in shares}) == 1
    assert all(len(chunk) <= size for share in shares for chunk in share)


@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=30), processes=st.integers(1, 3))
def test_chunks_of_one_length_hold_every_row_once(lengths: list[int], processes: int) -> None:
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    shares = [micro_batches(order, rank, processes, 4, lengths.__getitem__) for rank in range(processes)]
    assert sorted(index for share in shares for chunk in share for index in chunk) == list(range(len(lengths)))
    assert len({len(share) for share in shares}) == 1
    assert all(len({lengths[index] for index in chunk}) <= 1 and len(chunk) <= 4 for share in shares for chunk in share)


def test_padding_is_masked_by_length_even_where_the_pad_token_is_an_ordinary_one() -> None:
    rows = [EncodedRow(np.array([7, 3, 7], np.int32), None, 0), EncodedRow(np.array([7], np.int32), None, 1)]
    batch = collate(rows, pad_token=7, pad_type=0)
    assert batch["input_ids"].tolist() == [[7, 3, 7], [7, 7, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert "token_type_ids" not in batch
    assert batch["input_ids"].dtype is torch.long
    wide = collate(rows, pad_token=7, pad_type=0, multiple=8)
    assert wide["input_ids"].shape == (2, 8)
    assert wide["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]]
