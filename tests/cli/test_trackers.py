"""Programs that follow a run: they show what is in its log, and cannot stop it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reflora_cli.tracking import tensorboard as tensorboard_module
from reflora_cli.tracking.wandb import WandbTracker
from tests.cli.conftest import WEIGHTS, Reflora, killed, records, train

SMALL: dict[str, Any] = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
    "method": {"name": "lora", "rank": 4, "alpha": 8.0, "targets": ["q_proj"]},
    "task": {"name": "builtin/entailment", "max_length": 48, "max_train_rows": 40, "max_eval_rows": 10},
    "train": {"steps": 6, "batch_size": 8, "learning_rate": 3e-3, "log_every": 1, "checkpoint_every": 2,
              "keep_checkpoints": 9},
    "eval": {"every": 3, "at_start": True},
}  # fmt: skip
BOARD = "train.trackers=tensorboard"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tracked.yaml"
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(reflora: Reflora, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with TensorBoard; not to be changed."""
    return train(reflora, recipe, tmp_path_factory.mktemp("runs") / "whole", BOARD)


def logged(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of the log by the names that trackers should show."""
    found: dict[str, list[tuple[int, float]]] = {}

    def add(name: str, step: int, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, int | float):
                found.setdefault(f"{name}/{key}", []).append((step, value))

    for line in records(run, "step"):
        add("train", line["step"], {key: line[key] for key in line.keys() - {"event", "step"}})
    for line in records(run, "evaluation"):
        add("eval/validation", line["step"], {key: line[key] for key in line.keys() - {"event", "step", "split"}})
    for line in records(run, "health"):
        add("health", line["step"], {"plain": len(line["plain"])})
        for name, own in line["modules"].items():
            add(f"health/{name}", line["step"], own)
    return found


def shown(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values as TensorBoard reads them."""
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    return {name: [(own.step, own.value) for own in board.Scalars(name)] for name in board.Tags()["scalars"]}


def assert_shows_the_log(run: Path) -> None:
    found, expected = shown(run), logged(run)
    assert found.keys() == expected.keys()
    for name, own in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in own], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in own], rel=1e-6), name


def test_tensorboard_shows_the_log(whole: Path) -> None:
    names = logged(whole).keys()
    assert {"train/loss", "eval/validation/accuracy", "health/model.layers.0.self_attn.q_proj/ratio"} <= names
    assert_shows_the_log(whole)


@pytest.mark.parametrize("kept", [0, 2])
def test_a_killed_run_shows_every_step_once(
    kept: int, whole: Path, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """Whose log and events go on beyond the checkpoint, or to the end without any checkpoint."""
    part = killed(whole, tmp_path / "part", kept)
    train(reflora, recipe, part, BOARD, "--resume")
    assert [step for step, _ in shown(part)["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert_shows_the_log(part)


def test_trackers_change_nothing_else(whole: Path, recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    plain = train(reflora, recipe, tmp_path / "plain")
    assert (plain / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    files = [{path.name for path in run.iterdir()} for run in (plain, whole)]
    assert files[1] - files[0] == {"tensorboard"}


def test_a_missing_library_is_told_before_anything_is_written(
    recipe: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    outcome = reflora("train", recipe, "train.trackers=[wandb,tensorboard]", "--output", tmp_path / "run")
    assert outcome.status == 2
    assert "found: not installed: wandb\n" in outcome.err
    assert "pip install wandb, or pip install '.[trackers]'" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("value", "remedy"), [("tensorbord", "did you mean 'tensorboard'?"), ("[board]", "")])
def test_an_unknown_tracker_is_refused(value: str, remedy: str, recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("train", recipe, f"train.trackers={value}", "--output", tmp_path / "run")
    assert outcome.status == 2
    assert "wrong value for train.trackers" in outcome.err
    assert "expected: a list of one of tensorboard, wandb, trackio" in outcome.err
    assert remedy in outcome.err
    assert "brackets" not in outcome.err


@pytest.mark.parametrize("method", ["__init__", "log", "close"])
def test_a_tracker_that_fails_costs_one_line(
    method: str, whole: Path, recipe: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk of the board is full")

    monkeypatch.setattr(tensorboard_module.TensorBoardTracker, method, fail)
    outcome = reflora("train", recipe, BOARD, "--output", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert outcome.err.count("tracker tensorboard failed") == 1
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_wandb_and_trackio_follow_a_run_and_its_continuation(
    recipe: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, with all files in the run directory, under one id."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "run" / "trackio"))
    both, log = "train.trackers=[wandb,trackio]", WandbTracker.log
    sent: list[tuple[int, float]] = []

    def noted(tracker: WandbTracker, values: Mapping[str, float], step: int) -> None:
        sent.extend([(step, values["train/loss"])] if "train/loss" in values else [])
        log(tracker, values, step)

    monkeypatch.setattr(WandbTracker, "log", noted)
    run = tmp_path / "run"
    outcome = reflora("train", recipe, both, "--output", run, "--json")
    assert outcome.status == 0, outcome.err
    assert "tracker" not in outcome.err
    assert outcome.json["steps"] == 6
    assert sent == logged(run)["train/loss"]
    known = json.loads((run / "wandb.json").read_text())["id"]
    assert [path.name.rpartition("-")[2] for path in run.glob("wandb/offline-run-*")] == [known]
    assert list(run.glob("trackio/*.db"))
    from trackio import context_vars  # it reads the place of its files when it is imported

    assert context_vars.current_run.get() is None, "it would print on stdout when Python ends"
    (run / "results.json").unlink()
    outcome = reflora("train", recipe, both, "--output", run, "--resume")
    assert outcome.status == 0, outcome.err
    assert "tracker" not in outcome.err
    assert json.loads((run / "wandb.json").read_text())["id"] == known
    assert {path.name.rpartition("-")[2] for path in run.glob("wandb/offline-run-*")} == {known}
