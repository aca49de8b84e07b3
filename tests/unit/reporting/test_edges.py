"""A choice at the edge of what was tried is said to be one, and no other."""

from __future__ import annotations

from pathlib import Path

from reflora_cli.reporting.cells import Group, Wanted
from reflora_cli.reporting.curves import rate_curves
from reflora_cli.reporting.edges import edges_of
from reflora_cli.reporting.find import Found, find_runs
from reflora_cli.reporting.tables import make_groups
from tests.unit.reporting.made_runs import Made, make_comparison, make_run

RATES = {"lora": {1e-3: 0.5, 3e-3: 0.6, 1e-2: 0.7}, "reflora": {1e-3: 0.5, 3e-3: 0.8, 1e-2: 0.4}}
SCORES = {"lora": [0.5, 0.6, 0.7], "reflora": [0.6, 0.7, 0.8]}


def read(place: Path) -> tuple[Group, Found]:
    found = find_runs([place])
    tuned = tuple(key for plan in found.plans for key in plan.tuned)
    (group,) = make_groups(found.final, found.tuning, Wanted(tuned=tuned))
    return group, found


def test_the_largest_rate_is_an_edge_and_one_within_is_none(tmp_path: Path) -> None:
    group, found = read(make_comparison(tmp_path / "c", RATES, SCORES))
    (edge,) = edges_of(group, found)
    assert (edge.row, edge.key, edge.value, edge.side, edge.tried) == (
        "lora",
        "train.learning_rate",
        1e-2,
        "largest",
        3,
    )
    assert "a better one may lie beyond" in edge.sentence(edge.task)


def test_a_rate_beyond_that_did_not_finish_was_tried_too(tmp_path: Path) -> None:
    root = make_comparison(tmp_path / "c", RATES, SCORES)
    sets = ["train.learning_rate=0.1"]
    (make_run(root / "tuning" / "diverged", Made("lora", 100, sets=sets)) / "results.json").unlink()
    assert edges_of(*read(root)) == []


def test_tuned_rates_are_no_part_of_a_name(tmp_path: Path) -> None:
    group, _ = read(make_comparison(tmp_path / "c", RATES, SCORES))
    assert [row.label for row in group.rows] == ["lora", "reflora"]
    assert "train.learning_rate" in group.varied


def test_learning_rate_curves_have_all_rates_and_mark_the_chosen(tmp_path: Path) -> None:
    group, _ = read(make_comparison(tmp_path / "c", RATES, SCORES))
    curves = {curve.label: curve for curve in rate_curves(group, "builtin/entailment")}
    assert {label: curve.x for label, curve in curves.items()} == dict.fromkeys(RATES, (1e-3, 3e-3, 1e-2))
    assert {label: curve.marked for label, curve in curves.items()} == {"lora": (1e-2,), "reflora": (3e-3,)}
    assert curves["reflora"].mean == (50.0, 80.0, 40.0)


def test_without_tuning_nothing_is_an_edge(tmp_path: Path) -> None:
    for rate in (1e-3, 1e-2):
        make_run(tmp_path / str(rate), Made(sets=[f"train.learning_rate={rate}"]))
    group, found = read(tmp_path)
    assert edges_of(group, found) == []
    (curve,) = rate_curves(group, "builtin/entailment")
    assert (curve.label, curve.x, curve.marked) == ("lora", (1e-3, 1e-2), ())
