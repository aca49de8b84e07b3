"""Which runs are found beneath places, and what becomes of unfinished and damaged ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.reporting.find import find_runs
from reflora_cli.reporting.records import Stage, read_run
from tests.unit.reporting.made_runs import Made, make_comparison, make_run


def names(runs: list) -> list[str]:  # type: ignore[type-arg]
    return [run.path.name for run in runs]


def test_runs_are_found_at_any_depth_and_each_once(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a" / "deep" / "first", Made())
    make_run(tmp_path / "second", Made(seed=1))
    make_run(first / "inside", Made(seed=2))
    make_run(tmp_path / ".hidden", Made(seed=3))
    (tmp_path / "link").symlink_to(first)
    assert names(find_runs([tmp_path, first, tmp_path / "a"]).runs) == ["first", "second"]


def test_unfinished_runs_are_counted_and_damaged_ones_named(tmp_path: Path) -> None:
    make_run(tmp_path / "good", Made())
    (make_run(tmp_path / "stopped", Made(seed=1)) / "results.json").unlink()
    (make_run(tmp_path / "broken", Made(seed=2)) / "results.json").write_text("{")
    (make_run(tmp_path / "wrong", Made(seed=3)) / "recipe.yaml").write_text("model: [")
    results = json.loads((make_run(tmp_path / "lacking", Made(seed=4)) / "results.json").read_text())
    (tmp_path / "lacking" / "results.json").write_text(
        json.dumps({key: own for key, own in results.items() if key != "task"})
    )
    (make_run(tmp_path / "stale", Made(seed=5)) / "fresh.json").write_text('{"scores": [1]}')
    found = find_runs([tmp_path])
    assert names(found.runs) == ["good"]
    assert [run.path.name for run in found.unfinished] == ["stopped"]
    assert sorted(path.name for path in found.damaged) == ["broken", "lacking", "stale", "wrong"]
    assert all(found.damaged.values())


def test_a_comparison_has_runs_that_only_tune(tmp_path: Path) -> None:
    make_comparison(tmp_path / "c", {"lora": {1e-3: 0.7, 3e-3: 0.6}}, {"lora": [0.5, 0.6]})
    found = find_runs([tmp_path])
    assert (len(found.final), len(found.tuning)) == (2, 2)
    assert [(plan.baseline, plan.tuned) for plan in found.plans] == [("lora", ("train.learning_rate",))]
    assert all(
        run.is_fresh and run.scores == {"test": {"accuracy": run.scores["test"]["accuracy"]}} for run in found.final
    )
    assert not any(run.is_fresh for run in found.tuning)
    alone = find_runs([tmp_path / "c" / "runs", tmp_path / "c" / "tuning" / "lora-0.001"])
    assert (len(alone.final), len(alone.tuning)) == (2, 1)


def test_runs_that_a_comparison_set_aside_are_not_used(tmp_path: Path) -> None:
    root = make_comparison(tmp_path / "c", {"lora": {1e-3: 0.7}}, {"lora": [0.5]})
    make_run(root / "superseded" / "old", Made(seed=1))
    found = find_runs([tmp_path])
    assert (names(found.final), [path.name for path in found.aside]) == (["lora-0"], ["old"])


def test_runs_beside_a_plan_of_the_users_are_used(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("recipe: quickstart\n", encoding="utf-8")
    make_run(tmp_path / "sweep" / "a", Made())
    found = find_runs([tmp_path / "sweep"])
    assert (names(found.final), found.aside) == (["a"], [])


def test_a_plan_names_the_tuned_keys_and_the_recipe_of_the_baseline(tmp_path: Path) -> None:
    root = make_comparison(tmp_path / "c", {"lora": {1e-3: 0.7}}, {"lora": [0.5]})
    plan = {
        "baseline": "first",
        "tune": {"grid": {"method.alpha": [1.0, 2.0]}, "seeds": [100], "budget": None},
        "settings": {"first": {"resolved": {"method": {"name": "lora", "rank": 4}}}},
    }
    (root / "plan.yaml").write_text(json.dumps(plan), encoding="utf-8")
    (own,) = find_runs([tmp_path]).plans
    assert (own.tuned, own.baseline_keys) == (("method.alpha",), {"method.name": "lora", "method.rank": 4})


def test_a_folder_called_tuning_is_none_of_a_comparison_without_a_plan(tmp_path: Path) -> None:
    make_run(tmp_path / "tuning" / "run", Made())
    (found,) = find_runs([tmp_path]).runs
    assert found.stage is Stage.FINAL


def test_a_plan_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    root = make_comparison(tmp_path / "c", {"lora": {1e-3: 0.7}}, {"lora": [0.5]})
    (root / "plan.yaml").write_text("tune: [", encoding="utf-8")
    found = find_runs([tmp_path])
    assert (len(found.final), len(found.tuning), found.plans[0].baseline) == (1, 1, None)


def test_places_without_a_finished_run_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such directory"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="no run directory"):
        find_runs([tmp_path])
    (make_run(tmp_path / "stopped", Made()) / "results.json").unlink()
    with pytest.raises(InputError, match="1 unfinished"):
        find_runs([tmp_path])


def test_a_log_with_damaged_lines_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", Made(losses=(3.0, 2.0)))
    with (path / "metrics.jsonl").open("a") as stream:
        stream.write('[1]\n{"event": "step", "step": "x"}\nnull\n{"event": "st')
    course = read_run(path, Stage.FINAL, None).course
    assert [loss for *_, loss in course.losses] == [3.0, 2.0]
    (path / "metrics.jsonl").unlink()
    assert read_run(path, Stage.FINAL, None).course.losses == ()


def test_what_a_run_does_not_record_is_absent(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", Made())
    os.remove(path / "environment.json")
    record = read_run(path, Stage.FINAL, None)
    assert (record.base, record.rows, record.machine.versions) == ("builtin:tiny-llama", {}, {})
    assert record.keys["method.layer.kind"] == "lora"
