"""Our multipliers against transformers' schedulers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from reflora_cli.recipe.schedules import Schedule, learning_rate_multiplier

THEIRS: dict[Schedule, Callable[[torch.optim.Optimizer, int, int], LambdaLR]] = {
    Schedule.LINEAR: get_linear_schedule_with_warmup,
    Schedule.COSINE: get_cosine_schedule_with_warmup,
    Schedule.CONSTANT: lambda optimizer, warmup, total: get_constant_schedule_with_warmup(optimizer, warmup),
}


@pytest.mark.parametrize("schedule", Schedule)
@given(warmup=st.integers(0, 60), total=st.integers(1, 200))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_multipliers_are_those_of_transformers_to_the_bit(schedule: Schedule, warmup: int, total: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    multiplier = THEIRS[schedule](optimizer, warmup, total).lr_lambdas[0]
    for step in range(total + 1):
        assert learning_rate_multiplier(schedule, step, warmup, total) == multiplier(step)


@pytest.mark.parametrize("schedule", Schedule)
def test_the_first_step_under_warmup_has_rate_zero_and_the_warmup_ends_at_the_peak(schedule: Schedule) -> None:
    assert [learning_rate_multiplier(schedule, step, 4, 20) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("schedule", Schedule)
def test_without_warmup_the_first_step_has_the_peak_rate(schedule: Schedule) -> None:
    assert learning_rate_multiplier(schedule, 0, 0, 20) == 1


def test_what_is_left_at_half_time() -> None:
    halves = {schedule: learning_rate_multiplier(schedule, 60, 20, 100) for schedule in Schedule}
    assert halves == {Schedule.LINEAR: 0.5, Schedule.COSINE: pytest.approx(0.5), Schedule.CONSTANT: 1}
