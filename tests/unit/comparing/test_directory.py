"""What is known of the runs of a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflora_cli.comparing.compare import taken
from reflora_cli.comparing.directory import ComparisonDirectory, State
from reflora_cli.comparing.local import Ended
from reflora_cli.comparing.planned import PlannedRun
from reflora_cli.comparing.superseded import set_aside
from reflora_cli.ground.atomic import write_json
from reflora_cli.recipe.files import load_recipe
from tests.unit.reporting.made_runs import Made, make_run

RECIPE = load_recipe("quickstart")


def run(name: str) -> PlannedRun:
    return PlannedRun("runs", name, "lora", {}, 0, RECIPE)


@pytest.mark.parametrize(("status", "expected"), [(-9, "by SIGKILL"), (255, "with status 255")])
def test_a_run_whose_process_was_killed_has_failed(status: int, expected: str, tmp_path: Path) -> None:
    """As the system does when memory runs out."""
    directory = ComparisonDirectory(tmp_path)
    assert directory.result(run("a")).state is State.WAITING
    found = taken(directory, run("a"), Ended(0, status, 1.0))
    assert (found.state, expected in found.message) == (State.FAILED, True)


def test_what_a_run_says_of_its_failure_is_kept(tmp_path: Path) -> None:
    directory = ComparisonDirectory(tmp_path)
    write_json(directory.failure(run("a")), {"exit_status": 3, "message": "the loss is nan"})
    found = taken(directory, run("a"), Ended(0, 3, 1.0))
    assert (found.state, found.message) == (State.DIVERGED, "the loss is nan")


def test_a_run_that_was_trained_and_could_not_be_scored_has_failed(tmp_path: Path) -> None:
    directory, own = ComparisonDirectory(tmp_path), run("a")
    make_run(tmp_path / "runs" / "a", Made(score=0.5))
    assert directory.result(own).state is State.DONE
    write_json(directory.failure(own), {"exit_status": 1, "message": "no such split"})
    found = directory.result(own)
    assert (found.state, found.message, found.score("accuracy")) == (State.FAILED, "no such split", 0.5)
    write_json(directory.fresh(own), {"split": "test", "scores": {"test": {"accuracy": 0.4}}})
    assert directory.result(own).state is State.DONE


def test_a_run_with_damaged_results_has_failed(tmp_path: Path) -> None:
    directory = ComparisonDirectory(tmp_path)
    (make_run(tmp_path / "runs" / "a", Made()) / "results.json").write_text("{", encoding="utf-8")
    found = directory.result(run("a"))
    assert (found.state, "damaged" in found.message) == (State.FAILED, True)


def test_runs_that_are_not_compared_any_more_are_moved_and_come_back(tmp_path: Path) -> None:
    directory = ComparisonDirectory(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert set_aside(directory, [run("b")]) == ["a"]
    assert [own.name for own in (tmp_path / "runs").iterdir()] == ["b"]
    assert set_aside(directory, [run("a")]) == ["b"]
    assert [own.name for own in (tmp_path / "runs").iterdir()] == ["a"]
    assert [own.name for own in (tmp_path / "superseded").iterdir()] == ["b"]
