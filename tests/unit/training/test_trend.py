"""Spikes of the loss: rare among ordinary losses, always seen when they come."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from reflora_cli.training.trend import FIRST, LossTrend


@given(st.integers(0, 2**31))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_ordinary_losses_are_no_spikes_and_a_large_one_is(seed: int) -> None:
    draw = random.Random(seed)
    trend = LossTrend()
    level = draw.uniform(0.1, 10)
    for step in range(300):
        falling = level * (0.3 + 0.7 * 0.99**step)
        assert not trend.is_spike(falling * draw.uniform(0.9, 1.1))
    assert trend.is_spike(level * 3)
    assert not trend.is_spike(level * 0.33), "one spike does not hide what is ordinary"


def test_nothing_is_a_spike_at_first() -> None:
    trend = LossTrend()
    assert not any(trend.is_spike(loss) for loss in [1.0, 50.0] * (FIRST // 2))


def test_a_lasting_rise_becomes_ordinary() -> None:
    trend = LossTrend()
    for _ in range(50):
        trend.is_spike(1.0)
    spikes = [trend.is_spike(5.0) for _ in range(400)]
    assert spikes[0]
    assert not spikes[-1]
