"""Durations of steps: quantiles as those of the durations themselves."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from pydantic import TypeAdapter

from reflora_cli.training.step_times import StepTimes


def test_quantiles_are_those_of_the_durations() -> None:
    drawn = np.random.default_rng(0).lognormal(-2.0, 1.0, size=5001)
    times = StepTimes()
    for seconds in drawn.tolist():
        times.add(seconds)
    for share in (0.05, 0.5, 0.95):
        assert times.quantile(share) == pytest.approx(np.quantile(drawn, share), rel=0.011)
    assert len(times.counts) < 600


def test_there_is_no_quantile_of_nothing_and_a_clock_that_stands_still_is_counted() -> None:
    times = StepTimes()
    assert times.quantile(0.5) is None
    times.add(0.0)
    assert times.quantile(0.5) == pytest.approx(1e-9, rel=0.011)


def test_counts_go_through_a_checkpoint() -> None:
    times = StepTimes()
    for seconds in (0.1, 0.2, 0.2):
        times.add(seconds)
    assert TypeAdapter(StepTimes).validate_json(json.dumps(asdict(times)), strict=True) == times
