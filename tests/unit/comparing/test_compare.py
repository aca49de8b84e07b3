"""A comparison whose runs are written at once: what it does when it is killed, and when a run fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reflora_cli.comparing import compare as comparing
from reflora_cli.comparing import finish
from reflora_cli.comparing.command_line import plan_of
from reflora_cli.comparing.compare import Comparison, compare
from reflora_cli.comparing.directory import State
from reflora_cli.comparing.execution import Execution
from reflora_cli.comparing.finish import reported
from reflora_cli.comparing.local import Ended
from reflora_cli.comparing.settings import checked_settings
from reflora_cli.comparing.work import Assignment
from reflora_cli.console.reporter import SILENT
from reflora_cli.ground.atomic import write_json
from reflora_cli.ground.errors import InputError
from reflora_cli.ground.interruption import Interruption
from reflora_cli.methods.settings import ReportFormat
from reflora_cli.recipe.files import dump_recipe, load_recipe
from reflora_cli.reporting.report import write_report
from tests.unit.reporting.made_runs import Made, make_run

PLAN: dict[str, Any] = {
    "recipe": "quickstart",
    "set": {"task.validation_rows": 24},
    "grid": {"method.name": ["lora", "rslora", "dora"]},
    "seeds": "0..3",
    "baseline": "lora",
    "tune": {"train.learning_rate": [1e-4, 1e-3, 1e-2], "seeds": [7, 8], "by": "validation"},
}


class Killed(BaseException):
    """What ends a process at once."""


def write_run(assignment: Assignment) -> None:
    """Write what a run leaves; its scores depend on its recipe alone, and the middle rate is best."""
    recipe = assignment.recipe
    assert recipe.train.learning_rate is not None
    merit = {"lora": 0.5, "rslora": 0.52, "dora": 0.7}[str(recipe.method.name)]
    score = merit + 0.01 * recipe.train.seed + (0.1 if recipe.train.learning_rate == 1e-3 else 0.0)
    make_run(assignment.run, Made(str(recipe.method.name), recipe.train.seed, score))
    (assignment.run / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    if assignment.fresh is not None:
        scores = {"validation": {"accuracy": score - 0.1 + 0.001 * (recipe.train.seed % 2)}}
        write_json(assignment.fresh_place, {"split": "validation", "scores": scores})


def runner(allowed: int, is_lost: Callable[[Assignment], bool]) -> Any:
    """Return what writes runs, and is killed after so many. is_lost: which runs fail."""
    count = 0

    def run(work: Sequence[Assignment], _: Interruption, begun: Callable[[int], None]) -> Iterator[Ended]:
        nonlocal count
        for number, assignment in enumerate(work):
            if count == allowed:
                raise Killed
            count += 1
            begun(number)
            if is_lost(assignment):
                yield Ended(number, -9, 0.1)
                continue
            write_run(assignment)
            yield Ended(number, 0, 0.1)

    return run


@pytest.fixture
def carry_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Comparison]:
    """Give a function that begins or continues a comparison."""

    def begin(
        output: Path,
        resume: bool = False,
        allowed: int = 1000,
        is_lost: Callable[[Assignment], bool] = lambda _: False,
        **change: Any,
    ) -> Comparison:
        (tmp_path / "plan.json").write_text(json.dumps({**PLAN, **change}), encoding="utf-8")
        named = plan_of(str(tmp_path / "plan.json"), [])
        monkeypatch.setattr(comparing, "runner_of", lambda _: (runner(allowed, is_lost), 1))
        monkeypatch.setattr(finish, "write_report", partial(write_report, formats=[ReportFormat.JSON]))
        found = compare(named, checked_settings(named), output, resume, Execution(), SILENT)
        reported(found, SILENT)
        return found

    return begin


def report_of(directory: Path) -> str:
    """Return a comparison's report as JSON, with another name of its directory."""
    return (directory / "report" / "report.json").read_text(encoding="utf-8").replace(str(directory), "DIR")


def test_a_comparison_that_was_killed_twice_gives_the_same_report(
    carry_out: Callable[..., Comparison], tmp_path: Path
) -> None:
    carry_out(tmp_path / "whole")
    for resume, allowed in ((False, 5), (True, 17)):  # while it tunes, and while it runs what was chosen
        with pytest.raises(Killed):
            carry_out(tmp_path / "killed", resume, allowed)
    done = [*(tmp_path / "killed").glob("*/*/results.json")]
    assert len(done) == 22
    before = {path: path.stat().st_mtime_ns for path in done}
    found = carry_out(tmp_path / "killed", True)
    assert {path: path.stat().st_mtime_ns for path in done} == before
    assert [own.state for own in found.results] == [State.DONE] * 30
    assert report_of(tmp_path / "killed") == report_of(tmp_path / "whole")
    group = json.loads(report_of(tmp_path / "killed"))["groups"][0]
    assert [row["setting"] for row in group["rows"] if row["cells"][0]["best"]] == ["dora"]


def test_the_plan_in_a_comparisons_directory_runs_it_again(
    carry_out: Callable[..., Comparison], tmp_path: Path
) -> None:
    first = carry_out(tmp_path / "first")
    named = plan_of(str(tmp_path / "first" / "plan.yaml"), ["train.seed=0..4"])
    settings = checked_settings(named)
    assert (named.name, named.plan.baseline, named.plan.seeds) == ("plan", "lora", [0, 1, 2, 3, 4])
    assert [own.name for own in settings] == [own.name for own in first.settings]
    again = compare(named, settings, tmp_path / "first", True, Execution(), SILENT)
    assert [own.state for own in again.results] == [State.DONE] * 33
    assert [own.record() for own in again.choices] == [own.record() for own in first.choices]


NAMED: dict[str, Any] = {
    "grid": {},
    "settings": [
        {"name": "as published", "method.name": "lora"},
        {"name": "small", "method.name": "lora", "method.rank": 2, "method.alpha": 4.0},
        {"name": "no start", "method.name": "rslora", "method.dropout": 0.1},
        {"method.name": "dora"},
    ],
    "baseline": "as published",
}
"""A plan whose author named three of its four settings."""


def test_the_report_has_the_names_that_the_plan_gives_its_settings(
    carry_out: Callable[..., Comparison], tmp_path: Path
) -> None:
    carry_out(tmp_path / "first", **NAMED)
    again = plan_of(str(tmp_path / "first" / "plan.yaml"), [])
    compare(again, checked_settings(again), tmp_path / "first", True, Execution(), SILENT)
    moved = (tmp_path / "first").rename(tmp_path / "moved")
    report = write_report([moved], tmp_path / "report", None, SILENT, formats=[ReportFormat.JSON])
    (group,) = json.loads((report.output / "report.json").read_text(encoding="utf-8"))["groups"]
    assert {row["setting"] for row in group["rows"]} == {"as published", "small", "no start", "dora"}
    assert {row["setting"]: row["method"] for row in group["rows"]}["no start"] == "rslora"
    assert {own["baseline"] for own in group["differences"]} == {"as published"}
    assert all(row["cells"][0]["n"] == 4 for row in group["rows"])


def test_a_run_of_no_comparison_counts_to_the_named_setting_that_it_equals(
    carry_out: Callable[..., Comparison], tmp_path: Path
) -> None:
    carry_out(tmp_path / "c", **NAMED)
    one = next(path for path in (tmp_path / "c" / "runs").iterdir() if path.name.startswith("small"))
    recipe = load_recipe(str(one / "recipe.yaml"), ["train.seed=9"])
    alone = make_run(tmp_path / "alone", Made(seed=9, score=0.5))
    (alone / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    write_json(alone / "fresh.json", {"split": "validation", "scores": {"validation": {"accuracy": 0.5}}})
    report = write_report([tmp_path / "c", alone], tmp_path / "report", None, SILENT, formats=[ReportFormat.JSON])
    (part,) = report.parts
    assert {row.label: cell.n for row in part.group.rows for cell in row.cells.values()}["small"] == 5
    assert len(part.group.rows) == 4


def test_a_failed_run_is_told_and_the_rest_is_reported(carry_out: Callable[..., Comparison], tmp_path: Path) -> None:
    found = carry_out(tmp_path / "out", is_lost=lambda own: own.run.name == "lora-learning_rate=0.001-seed=2")
    assert found.status == 1
    assert found.remarks()[0] == "1 of 30 runs have no results:"
    assert "SIGKILL" in found.remarks()[1]
    rows = json.loads(report_of(tmp_path / "out"))["groups"][0]["rows"]
    assert {row["setting"]: row["cells"][0]["n"] for row in rows} == {"lora": 3, "rslora": 4, "dora": 4}


def test_runs_stay_when_what_chose_them_cannot_be_tuned_again(
    carry_out: Callable[..., Comparison], tmp_path: Path
) -> None:
    carry_out(tmp_path / "out")
    more = {**PLAN["tune"], "train.learning_rate": [1e-4, 1e-3, 1e-2, 3e-2]}
    carry_out(tmp_path / "out", True, is_lost=lambda own: own.recipe.train.learning_rate == 3e-2, tune=more)
    assert len([*(tmp_path / "out" / "runs").iterdir()]) == 12
    assert not (tmp_path / "out" / "superseded").exists()


SHORT: dict[str, Any] = {
    "set": {"task.validation_rows": 24, "train.steps": 20, "train.warmup_steps": 0},
    "grid": {},
    "settings": [
        {"name": "slow", "method.name": "lora", "train.warmup_steps": 20},
        {"name": "late", "method.name": "reflora", "method.update.warmup_steps": 30},
        {"name": "right", "method.name": "rslora"},
    ],
    "baseline": "right",
}
"""A plan of which two settings have a warm-up that is longer than the run."""


def is_too_short(own: Assignment) -> bool:
    return own.recipe.method.name != "rslora"


def test_warm_ups_that_outlast_their_runs_are_refused_together_before_the_first(
    carry_out: Callable[..., Comparison], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refused:
        carry_out(tmp_path / "out", **SHORT)
    found = [(own.what.split(":")[0], own.where) for own in refused.value.problems]
    assert ("slow, learning_rate=0.0001", "train.warmup_steps") in found
    assert ("late, learning_rate=0.01", "method.update.warmup_steps") in found
    assert len(found) == 6  # each try of two settings, whatever the seeds
    assert not [*(tmp_path / "out").glob("*/*")]


def test_a_comparison_continues_although_a_setting_of_it_is_too_short_and_a_new_one_is_refused(
    carry_out: Callable[..., Comparison], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = {**SHORT, "tune": None}
    with monkeypatch.context() as patched:
        patched.setattr(comparing, "refuse_short", lambda _: None)
        carry_out(tmp_path / "out", is_lost=is_too_short, **change)
    assert carry_out(tmp_path / "out", True, is_lost=is_too_short, **change).status == 1
    later = {"name": "later", "method.name": "dora", "train.warmup_steps": 25}
    with pytest.raises(InputError) as refused:
        carry_out(tmp_path / "out", True, **{**change, "settings": [*SHORT["settings"], later]})
    assert [own.what.split(":")[0] for own in refused.value.problems] == ["later"]


def test_another_score_to_tune_by_is_refused_with_both_names(
    carry_out: Callable[..., Comparison], tmp_path: Path
) -> None:
    carry_out(tmp_path / "out")
    with pytest.raises(InputError) as refused:
        carry_out(tmp_path / "out", True, tune={**PLAN["tune"], "by": "accuracy"})
    (problem,) = refused.value.problems
    assert "tune.by" in problem.what
    assert (problem.found, problem.expected) == ("accuracy", "validation")
