"""Tables: what is a row, a column and a table; what is marked, compared and left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.reporting.cells import Group, Wanted
from reflora_cli.reporting.find import find_runs
from reflora_cli.reporting.tables import make_groups
from tests.unit.reporting.made_runs import Made, make_run, make_runs

CLEAR = {"lora": [0.50, 0.52, 0.51, 0.53, 0.50], "reflora": [0.60, 0.63, 0.60, 0.63, 0.61]}
NOISY = {"lora": [0.50, 0.62, 0.51, 0.63, 0.50], "reflora": [0.60, 0.53, 0.60, 0.54, 0.61]}


def groups_of(*places: Path, wanted: Wanted | None = None) -> list[Group]:
    found = find_runs(places)
    return make_groups(found.final, found.tuning, wanted or Wanted())


def group_of(*places: Path, wanted: Wanted | None = None) -> Group:
    (group,) = groups_of(*places, wanted=wanted)
    return group


def labels(group: Group) -> list[str]:
    return [row.label for row in group.rows]


def proved(group: Group) -> list[str]:
    return [row.label for row in group.rows for cell in row.cells.values() if cell.is_proved]


def test_a_row_has_mean_deviation_and_number_of_its_seeds(tmp_path: Path) -> None:
    group = group_of(make_runs(tmp_path / "runs", CLEAR))
    (column,) = group.columns
    cell = group.cell("reflora", column)
    assert cell is not None
    assert (cell.n, cell.mean) == (5, pytest.approx(100 * np.mean(CLEAR["reflora"])))
    assert cell.sd == pytest.approx(100 * np.std(CLEAR["reflora"], ddof=1))


@pytest.mark.parametrize(("scores", "expected"), [(CLEAR, ["reflora"]), (NOISY, [])])
def test_the_best_is_marked_only_where_it_is_shown_to_be(
    tmp_path: Path, scores: dict[str, list[float]], expected: list[str]
) -> None:
    group = group_of(make_runs(tmp_path / "runs", scores))
    assert proved(group) == expected


def test_the_best_is_not_marked_if_one_other_is_as_good(tmp_path: Path) -> None:
    scores = {**CLEAR, "dora": [0.61, 0.62, 0.60, 0.62, 0.61]}
    group = group_of(make_runs(tmp_path / "runs", scores))
    assert proved(group) == []
    assert [one.row for one in group.compared if one.p is not None and one.p < 0.05] == ["dora", "reflora"]


def test_p_values_of_a_table_are_corrected_for_all_its_comparisons(tmp_path: Path) -> None:
    scores = {**NOISY, "dora": [0.55, 0.57, 0.50, 0.60, 0.56], "pissa": [0.45, 0.5, 0.52, 0.41, 0.6]}
    compared = group_of(make_runs(tmp_path / "runs", scores)).compared
    assert [one.row for one in compared] == ["dora", "pissa", "reflora"]
    raw = [one.found.p or 0.0 for one in compared]
    smallest = raw.index(min(raw))
    assert compared[smallest].p == pytest.approx(min(1.0, 3 * raw[smallest]))


def test_lower_errors_are_better(tmp_path: Path) -> None:
    group = group_of(make_runs(tmp_path / "runs", CLEAR, metric="rmse", task="glue/stsb"))
    assert proved(group) == ["lora"]
    assert set(group.scales.values()) == {1.0}


def test_the_best_is_not_marked_if_another_one_is_better_under_the_same_seeds(tmp_path: Path) -> None:
    """The seeds that only one of them has may be the easy ones."""
    hard = [0.50, 0.52, 0.51, 0.53, 0.50]
    scores = {"lora": [*hard, *[0.9] * 5], "reflora": [score + 0.1 + 0.001 * seed for seed, score in enumerate(hard)]}
    group = group_of(make_runs(tmp_path / "runs", scores))
    assert [one.p is not None and one.p < 0.05 and one.found.mean > 0 for one in group.compared] == [True]
    assert [row.label for row in group.rows for cell in row.cells.values() if cell.is_best] == ["lora"]
    assert proved(group) == []


def test_with_one_seed_nothing_is_tested_or_marked(tmp_path: Path) -> None:
    group = group_of(make_runs(tmp_path / "runs", {"lora": [0.1], "reflora": [0.9]}))
    assert proved(group) == []
    assert [(one.p, one.found.t) for one in group.compared] == [(None, None)]


def test_equal_scores_mark_nothing(tmp_path: Path) -> None:
    group = group_of(make_runs(tmp_path / "runs", {"lora": [0.5] * 5, "reflora": [0.5] * 5}))
    assert proved(group) == []
    assert [one.p for one in group.compared] == [1.0]


def test_tasks_are_columns_and_the_average_is_over_all_of_them(tmp_path: Path) -> None:
    make_runs(tmp_path / "a", {"lora": [0.5, 0.6], "dora": [0.7, 0.8]})
    make_runs(tmp_path / "b", {"lora": [0.1, 0.2], "dora": [0.3, 0.2]}, task="glue/cola", metric="matthews")
    group = group_of(tmp_path)
    assert [group.names[column] for column in group.columns] == ["builtin/entailment", "glue/cola"]
    assert group.average == pytest.approx({"dora": 50.0, "lora": 35.0})
    make_run(tmp_path / "c", Made("pissa", score=0.9))
    assert group_of(tmp_path).average == {}, "one row has not all tasks"


def test_bases_have_tables_of_their_own(tmp_path: Path) -> None:
    make_runs(tmp_path / "a", CLEAR)
    make_runs(tmp_path / "b", CLEAR, base_hash="b2")
    groups = groups_of(tmp_path)
    assert [[row.label for row in group.rows] for group in groups] == [["lora", "reflora"]] * 2
    assert all(len(group.runs) == 10 for group in groups)


def test_scores_on_other_rows_are_other_columns(tmp_path: Path) -> None:
    make_run(tmp_path / "a", Made(score=0.5))
    make_run(tmp_path / "b", Made(score=0.6, seed=1, rows_hash="r2"))
    group = group_of(tmp_path)
    assert len(group.columns) == 2
    assert labels(group) == ["lora"]
    assert len(set(group.names.values())) == 2


def test_fresh_scores_are_those_of_the_table(tmp_path: Path) -> None:
    fresh = {"split": "test", "scores": {"test": {"accuracy": 0.4}}}
    make_run(tmp_path / "a", Made(score=0.9, fresh=fresh))
    group = group_of(tmp_path)
    (column,) = group.columns
    cell = group.cell("lora", column)
    assert cell is not None
    assert (column.split, column.is_fresh, cell.mean, cell.validation_mean) == ("test", True, 40.0, 90.0)


def test_keys_that_differ_name_the_settings(tmp_path: Path) -> None:
    for rank, rate in ((2, 1e-3), (8, 1e-3), (8, 3e-3)):
        for seed in (0, 1):
            sets = [f"method.rank={rank}", f"train.learning_rate={rate}", f"train.log_every={seed + 1}"]
            make_run(tmp_path / f"{rank}-{rate}-{seed}", Made(seed=seed, sets=sets))
    group = group_of(tmp_path)
    assert labels(group) == [
        "lora, rank 2, learning rate 0.001",
        "lora, rank 8, learning rate 0.001",
        "lora, rank 8, learning rate 0.003",
    ]
    assert all(cell.n == 2 for row in group.rows for cell in row.cells.values())


def test_a_difference_that_the_method_tells_is_not_in_the_name(tmp_path: Path) -> None:
    make_run(tmp_path / "a", Made("lora", sets=["train.learning_rate=1e-3"]))
    make_run(tmp_path / "b", Made("reflora", sets=["train.learning_rate=3e-3"]))
    group = group_of(tmp_path)
    assert labels(group) == ["lora", "reflora"]
    assert "train.learning_rate" in group.varied


def test_by_a_key_there_is_a_table_for_each_value(tmp_path: Path) -> None:
    for method in ("lora", "reflora"):
        for rank in (2, 16):
            make_run(tmp_path / f"{method}-{rank}", Made(method, sets=[f"method.rank={rank}"]))
    groups = groups_of(tmp_path, wanted=Wanted(by="rank"))
    assert [group.by for group in groups] == ["rank 16", "rank 2"]
    assert [labels(group) for group in groups] == [["lora", "reflora"]] * 2
    with pytest.raises(InputError, match="did you mean"):
        groups_of(tmp_path, wanted=Wanted(by="method.rang"))


def test_a_baseline_named_by_its_method_is_that_of_the_same_rank(tmp_path: Path) -> None:
    for method in ("lora", "reflora"):
        for rank in (2, 16):
            make_run(tmp_path / f"{method}-{rank}", Made(method, sets=[f"method.rank={rank}"]))
    compared = group_of(tmp_path, wanted=Wanted("lora", True)).compared
    assert [(one.row, one.baseline) for one in compared] == [
        ("reflora, rank 2", "lora, rank 2"),
        ("reflora, rank 16", "lora, rank 16"),
    ]
    compared = group_of(tmp_path, wanted=Wanted("lora, rank 2", True)).compared
    assert {one.baseline for one in compared} == {"lora, rank 2"}
    assert len(compared) == 3
    with pytest.raises(InputError, match="no row has this name"):
        group_of(tmp_path, wanted=Wanted("lorra", True))


def test_a_plans_baseline_may_have_a_name_of_its_own(tmp_path: Path) -> None:
    for method in ("dora", "lora", "reflora"):
        make_run(tmp_path / method, Made(method))
    keys = {"method.name": "dora", "method.layer.kind": "dora", "method.rank": 8}
    assert group_of(tmp_path, wanted=Wanted("the first", False, None, (), keys)).baseline == "dora"
    assert group_of(tmp_path, wanted=Wanted("the first", False)).baseline == "lora"


def test_a_plans_baseline_is_told_by_all_of_its_recipe(tmp_path: Path) -> None:
    for decay in (0.0, 0.1, 0.2):
        make_run(tmp_path / f"{decay}", Made(sets=[f"train.weight_decay={decay}"]))
    keys = {"method.name": "lora", "method.rank": 8, "model.dtype": "auto", "train.weight_decay": 0.1}
    for name in ("middle", "lora"):
        found = group_of(tmp_path, wanted=Wanted(name, False, None, (), keys))
        assert found.baseline == "lora, weight decay 0.1", name
        assert {one.baseline for one in found.compared} == {found.baseline}


def test_a_run_without_a_finite_score_is_counted_and_left_out(tmp_path: Path) -> None:
    make_runs(tmp_path / "runs", {"lora": [0.5, float("nan"), -0.25]}, metric="matthews", task="glue/cola")
    group = group_of(tmp_path)
    cell = group.cell("lora", group.columns[0])
    assert cell is not None
    assert (cell.n, cell.diverged, cell.mean) == (2, 1, pytest.approx(12.5))


def test_a_repeated_seed_counts_once(tmp_path: Path) -> None:
    make_run(tmp_path / "a", Made(seed=3, score=0.5))
    make_run(tmp_path / "b", Made(seed=3, score=0.7))
    group = group_of(tmp_path)
    cell = group.cell("lora", group.columns[0])
    assert cell is not None
    assert (cell.n, cell.mean) == (1, 50.0)
    assert [run.path.name for run in cell.setting.repeated] == ["b"]


def test_the_dtype_that_was_used_makes_another_setting(tmp_path: Path) -> None:
    make_run(tmp_path / "a", Made(seed=0))
    make_run(tmp_path / "b", Made(seed=0, extra={"dtype": "bfloat16"}))
    assert labels(group_of(tmp_path)) == ["lora, dtype bfloat16", "lora, dtype float32"]
