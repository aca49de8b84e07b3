"""The parts of results.json that are computed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from reflora_cli.data.batches import StepSampler
from reflora_cli.training.results import tokens_seen


@pytest.mark.parametrize("steps", [0, 1, 3, 4, 7, 9])
def test_tokens_are_those_of_the_rows_of_all_steps(steps: int) -> None:
    """An epoch of four steps, the last of which is smaller."""
    lengths = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
    sampler = StepSampler(len(lengths), 3, seed=1)
    rows = [SimpleNamespace(input_ids=[0] * length) for length in lengths]
    job = SimpleNamespace(rows=SimpleNamespace(training=rows), sampler=sampler)
    expected = sum(lengths[row] for step in range(steps) for row in sampler.step_rows(step))
    assert tokens_seen(cast(Any, job), steps) == expected
