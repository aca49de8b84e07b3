"""Moving medians against numpy's, and the spikes that are cut off."""

from __future__ import annotations

import numpy as np
import pytest

from reflora_cli.training.smoothing import FEWEST, POINTS, ceiling, moving_median, width_for


@pytest.mark.parametrize("count", [1, 2, 7, 60, 399, 400, 401, 5000])
def test_medians_are_of_the_values_around(count: int) -> None:
    values = np.random.default_rng(count).normal(size=count)
    found = moving_median(values.tolist(), 7)
    assert min(found) == 0
    assert max(found) == count - 1
    assert len(found) == min(count, POINTS)
    for index, own in found.items():
        reach = min(3, index, count - 1 - index)
        assert own == pytest.approx(np.median(values[index - reach : index + reach + 1]), abs=1e-12)


def test_few_values_are_not_smoothed_and_widths_are_odd() -> None:
    assert width_for(FEWEST - 1) == 1
    assert all(width_for(count) % 2 == 1 for count in range(FEWEST, 3000))
    assert width_for(4000) == 101


def test_a_spike_is_cut_off_and_what_must_be_shown_is_not() -> None:
    values = [1.0 + 0.01 * (index % 7) for index in range(200)]
    assert ceiling(values, [1.05]) is None
    values[77] = 50.0
    top = ceiling(values, [1.05])
    assert top is not None
    assert 1.06 <= top < 1.2
    assert ceiling(values, [40.0]) is None
    assert ceiling([1.0] * 30 + [50.0], []) is None, "few values are all shown"
    assert ceiling([1.0] * 300 + [50.0], []) is None, "there is no height to cut at"
