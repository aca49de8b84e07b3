"""`reflora compare`: from a plan to finished runs, whatever happens between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reflora_cli.ground.atomic import locked
from tests.cli.conftest import WEIGHTS, Outcome, Reflora

TINY: dict[str, Any] = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
    "method": {"name": "lora", "rank": 2, "alpha": 4.0},
    "task": {"name": "builtin/entailment", "max_length": 32},
    "train": {"steps": 4, "batch_size": 16, "learning_rate": 3e-3, "checkpoint_every": 1},
}
RATES = [1e-9, 1e-2, 1e25]
"""One that changes nothing, one that learns, and one that diverges."""
PLAN: dict[str, Any] = {
    "recipe": "tiny.yaml",
    "set": {"task.validation_rows": 24},
    "grid": {"method.name": ["lora", "rslora"]},
    "seeds": "0..1",
    "baseline": "lora",
    "tune": {"train.learning_rate": RATES, "seeds": [7], "by": "loss"},
}
COMPARE = [sys.executable, "-m", "reflora_cli", "compare"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def put_rows(directory: Path, sizes: dict[str, int]) -> None:
    """Write rows from which something is learned in a few steps: two texts, each with its label."""
    directory.mkdir()
    for split, count in sizes.items():
        rows = [{"premise": f"the cup is {('red', 'blue')[index % 2]}", "hypothesis": "it is red", "label": index % 2}
                for index in range(count)]  # fmt: skip
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a recipe and a plan."""
    place = tmp_path_factory.mktemp("compare")
    put_rows(place / "rows", {"train": 88, "validation": 15})
    task = {**TINY["task"], "data": str(place / "rows")}
    (place / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "task": task}), encoding="utf-8")
    (place / "plan.yaml").write_text(yaml.safe_dump({**PLAN, "recipe": str(place / "tiny.yaml")}), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def tuned(place: Path, reflora: Reflora) -> Outcome:
    """What a finished comparison with tuning has printed; its directory is `place / "tuned"`."""
    return reflora("compare", place / "plan.yaml", "--output", place / "tuned", "--json")


def ended_well(outcome: Outcome) -> Outcome:
    assert outcome.status == 0, outcome.err
    return outcome


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def recipes(folder: Path) -> dict[str, Any]:
    """The recipes of the runs in a folder by name."""
    return {run.name: yaml.safe_load((run / "recipe.yaml").read_text()) for run in folder.iterdir()}


def test_every_method_is_tuned_with_the_same_budget_and_a_diverged_rate_loses(tuned: Outcome, place: Path) -> None:
    ended_well(tuned)
    chosen = read(place / "tuned" / "chosen.json")
    assert list(chosen) == ["lora", "rslora"]
    for own in chosen.values():
        assert own["metric"] == "loss"
        assert [tried["values"] for tried in own["tried"]] == [{"train.learning_rate": rate} for rate in RATES]
        assert [tried["n"] for tried in own["tried"]] == [1, 1, 1]
        nothing, learned, diverged = (tried["mean"] for tried in own["tried"])
        assert diverged is None
        assert learned < nothing
        assert own["chosen"] == {"train.learning_rate": 1e-2}
        assert own["at_edge"] == []
    assert tuned.json["counts"] == {"done": 8, "diverged": 2, "failed": 0, "waiting": 0}
    means = [tried["mean"] for tried in chosen["lora"]["tried"][:2]]
    results = [read(place / "tuned" / "tuning" / f"lora-learning_rate={rate}-seed=7" / "results.json")
               for rate in ("1e-09", "0.01")]  # fmt: skip
    assert means == [own["scores"]["validation"]["loss"] for own in results]


def test_chosen_settings_run_on_seeds_that_tuning_did_not_have(tuned: Outcome, place: Path) -> None:
    ended_well(tuned)
    final = recipes(place / "tuned" / "runs")
    assert {own["train"]["seed"] for own in recipes(place / "tuned" / "tuning").values()} == {7}
    assert sorted((own["method"]["name"], own["train"]["seed"]) for own in final.values()) == [
        ("lora", 0), ("lora", 1), ("rslora", 0), ("rslora", 1)]  # fmt: skip
    assert {own["train"]["learning_rate"] for own in final.values()} == {1e-2}
    assert "lora-learning_rate=0.01-seed=0" in final


def test_fresh_scores_are_those_of_eval_on_rows_that_tuning_never_saw(
    tuned: Outcome, place: Path, reflora: Reflora, tmp_path: Path
) -> None:
    ended_well(tuned)
    run = place / "tuned" / "runs" / "lora-learning_rate=0.01-seed=1"
    fresh = read(run / "fresh.json")
    assert fresh["split"] == "validation"
    found = reflora("eval", run, "task.validation_rows=null", "--json", "--output", tmp_path / "eval")
    assert fresh["scores"] == ended_well(found).json["scores"]
    held_out = reflora("eval", run, "--json", "--output", tmp_path / "own")
    assert ended_well(held_out).json["scores"] == read(run / "results.json")["scores"] != fresh["scores"]
    put_rows(tmp_path / "other", {"train": 12, "validation": 6})
    other = reflora("eval", run, f"task.data={tmp_path / 'other'}", "--json", "--output", tmp_path / "rows")
    assert ended_well(other).json["rows"] == {"validation": 6}
    assert not [*(place / "tuned" / "tuning").glob("*/fresh.json")]


def test_a_run_is_that_of_train_to_the_last_bit(tuned: Outcome, place: Path, reflora: Reflora, tmp_path: Path) -> None:
    ended_well(tuned)
    values = ("method.name=rslora", "train.learning_rate=0.01", "train.seed=1", "task.validation_rows=24")
    ended_well(reflora("train", place / "tiny.yaml", *values, "--output", tmp_path / "run"))
    run = place / "tuned" / "runs" / "rslora-learning_rate=0.01-seed=1"
    assert (run / WEIGHTS).read_bytes() == (tmp_path / "run" / WEIGHTS).read_bytes()
    assert (run / "recipe.yaml").read_bytes() == (tmp_path / "run" / "recipe.yaml").read_bytes()


def test_a_finished_comparison_is_left_alone(tuned: Outcome, place: Path, reflora: Reflora) -> None:
    ended_well(tuned)
    report = place / "tuned" / "report"
    written = (place / "tuned" / "plan.yaml", place / "tuned" / "chosen.json", *report.rglob("*"))
    files = [path for path in (place / "tuned").rglob("*") if path.is_file() and path not in written]
    before = {path: path.stat().st_mtime_ns for path in files}
    said = read(report / "report.json")
    again = ended_well(reflora("compare", place / "plan.yaml", "--output", place / "tuned", "--resume", "--json"))
    assert again.json == tuned.json
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert read(report / "report.json") == said
    refused = reflora("compare", place / "plan.yaml", "--output", place / "tuned")
    assert (refused.status, "--resume" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seeds": [0]}, ("seeds leaves out seeds of the comparison", "[0, 1]")),
        ({"set": {"task.validation_rows": 24, "train.steps": 6}}, ("'lora' differs", "train.steps: 6", "steps: 4")),
        ({"grid": {"method.name": ["rslora"]}, "baseline": None}, ("lacks the setting 'lora'",)),
        (
            {"tune": {**PLAN["tune"], "train.learning_rate": RATES[:2]}},
            ("leaves out values that the comparison has tried",),
        ),
        ({"tune": None}, ("tune differs",)),
    ],
)
def test_a_changed_plan_is_refused_with_what_has_changed(
    change: dict[str, Any], expected: tuple[str, ...], tuned: Outcome, place: Path, reflora: Reflora, tmp_path: Path
) -> None:
    ended_well(tuned)
    values = {**PLAN, "recipe": str(place / "tiny.yaml"), **change}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    outcome = reflora("compare", tmp_path / "plan.yaml", "--output", place / "tuned", "--resume")
    assert outcome.status == 2
    assert [text for text in expected if text not in outcome.err] == []


def test_a_failed_run_ends_nothing_and_is_tried_again_and_a_plan_may_grow(
    place: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "rows"
    plan = {
        "recipe": str(place / "tiny.yaml"),
        "set": {"train.steps": 1},
        "settings": [{"name": "lost", "task.data": "rows"}, {"name": "there", "method.rank": 3}],
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    command = ("compare", tmp_path / "plan.yaml", "--output", "out", "--json")
    outcome = reflora(*command)
    assert outcome.status == 1
    assert outcome.json["counts"] == {"done": 1, "diverged": 0, "failed": 1, "waiting": 0}
    assert "1 of 2 runs have no results" in outcome.err
    assert "no such directory" in read(tmp_path / "out" / "failed" / "runs" / "lost-seed=0.json")["message"]
    put_rows(data, {"train": 8, "validation": 4, "test": 4})
    before = (tmp_path / "out" / "runs" / "there-seed=0" / "results.json").stat().st_mtime_ns
    plan["settings"].append({"name": "more", "method.rank": 4})  # type: ignore[attr-defined]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    again = ended_well(reflora(*command, "--resume", "--jobs", 2))
    assert again.json["counts"] == {"done": 3, "diverged": 0, "failed": 0, "waiting": 0}
    assert (tmp_path / "out" / "runs" / "there-seed=0" / "results.json").stat().st_mtime_ns == before
    assert not (tmp_path / "out" / "failed" / "runs" / "lost-seed=0.json").exists()
    found = {run["setting"]: run["fresh"] for run in again.json["runs"]}
    assert (list(found["lost"]), found["there"]) == (["test"], None)


@pytest.fixture
def long_run(place: Path) -> list[str]:
    """Arguments of a comparison of two runs with many steps."""
    settings = ("train.steps=30", "train.checkpoint_every=2", "train.keep_checkpoints=1", "eval.every=never")
    return [str(place / "tiny.yaml"), "method.name=lora,rslora", *settings, "eval.select=last"]


def wait_for_steps(run: Path, step: int) -> None:
    """Wait until a run has a checkpoint after so many steps."""
    until = time.monotonic() + 120
    while not any(int(own.name.split("-")[1]) >= step for own in run.glob("checkpoints/step-*")):
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def started(long_run: list[str], tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Comparisons that were started; those that still run at the end are killed."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_a_comparison_that_was_stopped_and_killed_is_continued_to_the_last_bit(
    started: list[subprocess.Popen[str]], long_run: list[str], reflora: Reflora, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = [*COMPARE, *long_run, "--output", str(output)]
    first = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    started.append(first)
    wait_for_steps(output / "runs" / "lora-seed=0", 2)
    os.killpg(first.pid, signal.SIGTERM)  # as `timeout` and job schedulers do: helpers of the process get it too
    told = first.communicate(timeout=60)[1]
    assert first.returncode == 143
    assert f"--resume --output {output}" in told
    assert "failed" not in told
    with locked(output):
        refused = reflora("compare", *long_run, "--output", output, "--resume")
    assert (refused.status, "another process" in refused.err) == (2, True)
    (stopped,) = (output / "runs" / "lora-seed=0" / "checkpoints").glob("step-*-stopped")
    steps = int(stopped.name.split("-")[1])
    assert steps < 30
    second = subprocess.Popen([*command, "--resume"], env=ENVIRONMENT, stderr=subprocess.DEVNULL, text=True)
    started.append(second)
    wait_for_steps(output / "runs" / "lora-seed=0", steps + 2)
    second.kill()
    second.wait()
    ended_well(reflora("compare", *long_run, "--output", output, "--resume"))
    for name in ("lora", "rslora"):
        alone = tmp_path / name
        values = [f"method.name={name}", *long_run[2:]]
        ended_well(reflora("train", long_run[0], *values, "--output", alone))
        assert (output / "runs" / f"{name}-seed=0" / WEIGHTS).read_bytes() == (alone / WEIGHTS).read_bytes()
    log = (output / "logs" / "runs" / "lora-seed=0.txt").read_text()
    assert log.count("step 30/30") == 1


def test_wrong_plans_are_refused_before_anything_runs(place: Path, reflora: Reflora, tmp_path: Path) -> None:
    """Every wrong point is named, with the line of the plan."""
    plan = {"recipe": str(place / "tiny.yaml"), "grid": {"method.name": ["lora", "dorra"], "method.rnk": [2, 4]}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    outcome = reflora("compare", tmp_path / "plan.yaml", "--output", tmp_path / "out")
    assert outcome.status == 2
    expected = (
        "lora, rnk=2: unknown key 'rnk'",
        "plan.yaml, line 5",
        "did you mean 'rank'",
        "dorra, rnk=4: wrong value",
    )
    assert [text for text in expected if text not in outcome.err] == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("quickstar",), "did you mean 'quickstart'"),
        (("plans/quickstar",), "did you mean 'plans/quickstart'"),
        (("quickstart", "method.name"), "KEY=VALUE or KEY=V1,V2"),
        (("quickstart", "method.name=lora,,dora"), "a value is empty"),
        (("quickstart", "train.seed=4..0"), "has no seeds"),
        (("quickstart", "--resume"), "--output DIR"),
        (("quickstart", "--resume", "--output", "nowhere"), "there is no comparison to resume"),
        (("plans/quickstart", "train.learning_rate=1e-3"), "both tuned and set"),
        (("quickstart", "method.name=lora,pissa", "model.quantization=nf4", "train.optimizer=adamw"), ""),
    ],
)
def test_wrong_arguments_are_told(arguments: tuple[str, ...], expected: str, reflora: Reflora) -> None:
    outcome = reflora("compare", *arguments, *(() if expected else ("--dry-run",)))
    assert outcome.status == (2 if expected else 0), outcome.err
    assert expected in outcome.err
    assert "Traceback" not in outcome.err


def test_a_dry_run_lists_all_runs(reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = ended_well(reflora("compare", "plans/quickstart", "--dry-run", "--json"))
    assert (outcome.json["runs"], len(outcome.json["tuning"]), len(outcome.json["final"])) == (10, 6, 4)
    assert "6 to tune, 4 to compare" in outcome.err
    assert [*tmp_path.iterdir()] == []


def test_a_ray_cluster_gives_the_same_numbers(place: Path, tuned: Outcome, reflora: Reflora, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    ended_well(tuned)
    plan = yaml.safe_load((place / "plan.yaml").read_text())
    values = {"recipe": plan["recipe"], "set": {**plan["set"], "train.learning_rate": 1e-2}, "seeds": [1]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    try:
        outcome = reflora("compare", tmp_path / "plan.yaml", "--backend", "ray", "--output", tmp_path / "out")
    finally:
        ray.shutdown()
    ended_well(outcome)
    (run,) = (tmp_path / "out" / "runs").iterdir()
    local = place / "tuned" / "runs" / "lora-learning_rate=0.01-seed=1"
    for name in (WEIGHTS, "fresh.json"):
        assert (run / name).read_bytes() == (local / name).read_bytes()
