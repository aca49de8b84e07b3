"""A short form of `make robust`: the same programs, fewer cases; and what they do not cover."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reflora_cli.ground.atomic import locked
from reflora_cli.runs.directory import is_unused
from tests.cli.conftest import Reflora
from tests.forked import Forked

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def robustness(program: str, *arguments: object) -> str:
    status, printed, said = Forked(f"tests.robustness.{program}", *arguments, environment=ENVIRONMENT).ended()
    assert status == 0, said[-4000:]
    return printed


def test_killed_runs_end_as_uninterrupted_ones() -> None:
    assert "SIG" in robustness("kills", "--runs", 2, "--variants", "reflora, nf4", "dora")


def test_two_processes_of_which_one_is_stopped_end_as_uninterrupted_ones() -> None:
    assert "SIG" in robustness("pairs", "--runs", 1, "--seed", 3)


def test_stopped_merges_and_exports_leave_nothing_half_written() -> None:
    said = robustness("writes", "--stops", 2, "--kinds", "merge", "gguf")
    assert sum(map(int, re.findall(r"(\d+)  \w+: (?:SIGKILL|SIGTERM|done before)", said))) == 4


def test_failing_file_operations_lose_nothing() -> None:
    assert "status 2" in robustness("faults", "--every", 83)


def test_flipped_bits_are_noticed() -> None:
    assert "4 flips, all noticed" in robustness("flips", "--flips", 4, "--seed", 1)


def test_mutated_inputs_are_refused_or_used() -> None:
    said = robustness("fuzz", "--recipes", 20, "--data", 15, "--directories", 8, "--seed", 1)
    assert len(re.findall(r"'status 2': \d+", said)) == 3


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_a_checkpoint_and_says_where(number: signal.Signals, status: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = Forked("reflora_cli", "train", "quickstart", "train.log_every=1", "--output", run)
    while not process.stderr.readline().startswith("step 3/"):
        assert process.poll() is None
    process.send_signal(number)
    ended, _, said = process.ended(60)
    assert ended == status
    (checkpoint,) = run.glob("checkpoints/step-*-stopped")
    assert str(checkpoint) in said
    assert f"--resume --output {run}" in said
    assert "Traceback" not in said


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """The first one waits for a step that takes as long as all rows do."""
    settings = ("train.batch_size=2896", "task.max_length=96", "train.log_every=1", "eval.at_start=false",
                "method.refactor.warmup_steps=1", "train.warmup_steps=1")  # fmt: skip
    process = Forked("reflora_cli", "train", "quickstart", *settings, "--output", tmp_path / "run")
    while "  run " not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    assert process.wait(2) == 130
    assert not list(tmp_path.glob("run/checkpoints/step*"))


def test_a_run_is_held_by_one_process(trained: Path, recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    with locked(trained):
        outcome = reflora("train", recipe, "--output", trained, "--resume")
        assert outcome.status == 0, "a finished run is only read"
    run = tmp_path / "run"
    with locked(run):
        outcome = reflora("train", recipe, "--output", run)
        assert outcome.status == 2
        assert f"process {os.getpid()}" in outcome.err
    assert not run.exists()


def test_what_a_killed_start_leaves_does_not_stand_in_the_way(tmp_path: Path) -> None:
    for name, unused in ((".lock", True), (".recipe.yaml.abc", True), (".git", False), ("notes.txt", False)):
        place = tmp_path / name.strip(".")
        place.mkdir()
        (place / name).write_text("")
        assert is_unused(place) == unused


@pytest.mark.parametrize(("section", "word"), [("base", "the base model"), ("data", "the data")])
def test_a_run_is_not_continued_on_something_else(
    section: str, word: str, run: Path, recipe: Path, reflora: Reflora
) -> None:
    (run / "results.json").unlink()
    path = run / "environment.json"
    environment = json.loads(path.read_text())
    for entry in environment[section].values() if section == "data" else [environment[section]]:
        entry["sha256"] = "0" * 64
    path.write_text(json.dumps(environment))
    outcome = reflora("train", recipe, "--output", run, "--resume")
    assert outcome.status == 2, outcome.err
    assert f"{word} changed since the run began" in outcome.err


def test_a_changed_recipe_is_refused_for_finished_runs_too(trained: Path, recipe: Path, reflora: Reflora) -> None:
    outcome = reflora("train", recipe, "train.seed=7", "--output", trained, "--resume")
    assert outcome.status == 2
    assert "found: train.seed: 7" in outcome.err
    assert "expected: train.seed: 0" in outcome.err


def test_no_command_opens_a_connection(trained: Path, answering: Path, recipe: Path, tmp_path: Path) -> None:
    """With local inputs, where nothing declares the hub offline and nothing is in any cache."""
    commands = [
        ["train", recipe, "task.max_train_rows=64", "method.refactor.warmup_steps=1", "--output", tmp_path / "run"],
        ["eval", trained, "--limit", 8],
        ["eval", answering, "--limit", 8, "--output", tmp_path / "scores"],
        ["merge", answering, "--output", tmp_path / "merged"],
        *(["export", trained, "--format", kind, "--output", tmp_path / kind] for kind in ("peft", "onnx")),
        *(["export", answering, "--format", kind, "--output", tmp_path / kind] for kind in ("gguf", "gguf-adapter")),
    ]  # fmt: skip
    offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in offline}
    script = [sys.executable, "-m", "tests.robustness.connections", json.dumps(commands, default=str)]
    done = subprocess.run(
        script, env={**environment, "HF_HOME": str(tmp_path / "hub")}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"statuses": [0] * len(commands), "opened": []}


def test_no_credential_is_written(recipe: Path, tmp_path: Path) -> None:
    secret = "hf_abcdefghijklmnopqrstuvwxyz123456"
    environment = {**ENVIRONMENT, "HF_TOKEN": secret, "WANDB_API_KEY": secret, "AWS_SECRET_ACCESS_KEY": secret}
    arguments = ("train", recipe, "train.epochs=1", "--output", tmp_path / "run", "--json")
    status, *told = Forked("reflora_cli", *arguments, environment=environment).ended()
    assert status == 0
    written = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [1 for content in (*written, *map(str.encode, told)) if secret.encode() in content]
