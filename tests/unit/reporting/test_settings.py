"""Settings do not depend on the order of runs or seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflora_cli.reporting.find import find_runs
from reflora_cli.reporting.records import RunRecord
from reflora_cli.reporting.settings import label_of, settings_of, shown, spoken, telling_keys
from tests.unit.reporting.made_runs import Made, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    place = tmp_path_factory.mktemp("run")
    make_run(place / "run", Made())
    (found,) = find_runs([place]).final
    return found


chosen = st.tuples(st.sampled_from((2, 8)), st.sampled_from((1e-3, 3e-3)), st.integers(0, 9))


@settings(max_examples=50, deadline=None)
@given(points=st.lists(chosen, min_size=1, max_size=12, unique=True), order=st.randoms(use_true_random=False))
def test_every_run_is_in_the_setting_of_its_keys_whatever_the_order(
    run: RunRecord, points: list[tuple[int, float, int]], order: object
) -> None:
    def made(rank: int, rate: float, seed: int) -> RunRecord:
        keys = {**run.keys, "method.rank": rank, "train.learning_rate": rate, "train.seed": seed}
        return replace(run, keys=keys, seed=seed, path=Path(f"{rank}-{rate}-{seed}"))

    runs = [made(*point) for point in points]
    mixed = list(runs)
    order.shuffle(mixed)  # type: ignore[attr-defined]
    found, again = settings_of(runs), settings_of(mixed)
    assert [own.keys for own in found] == [own.keys for own in again]
    assert [list(own.runs) for own in found] == [list(own.runs) for own in again]
    expected: dict[tuple[int, float], set[int]] = {}
    for rank, rate, seed in points:
        expected.setdefault((rank, rate), set()).add(seed)
    assert {(own.keys["method.rank"], own.keys["train.learning_rate"]): set(own.runs) for own in found} == expected
    names = [label_of(own, telling_keys(found, ())) for own in found]
    assert len(set(names)) == len(names)


def test_words_for_keys_and_values() -> None:
    assert [spoken(key) for key in ("method.rank", "method.update.warmup_steps", "data.train")] == [
        "rank",
        "update warmup steps",
        "training rows",
    ]
    assert [shown(value) for value in (1e-4, True, None, ("q", "v"), 8)] == ["0.0001", "yes", "none", "q, v", "8"]
