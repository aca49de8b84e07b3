"""Which values are tried for each method."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reflora_cli.comparing.plan import Tuning
from reflora_cli.comparing.tries import tries_of


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_a_larger_budget_tries_more_and_keeps_what_was_tried(rates: int, ranks: int, data: st.DataObject) -> None:
    grid = {"train.learning_rate": [10.0**-n for n in range(rates)], "method.rank": list(range(1, ranks + 1))}
    whole = rates * ranks
    small = data.draw(st.integers(1, whole))
    large = data.draw(st.integers(small, whole))
    few, more, all_ = (tries_of(Tuning(grid=grid, budget=own, seeds=[1])) for own in (small, large, None))
    assert (len(few), len(more), len(all_)) == (small, large, whole)
    assert [own for own in more if own in few] == few
    assert [own for own in all_ if own in more] == more
