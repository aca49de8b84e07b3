"""What a run leaves behind for tables and figures, and that an interrupted run leaves the same."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from reflora_cli.training.checkpoint import manifest_of
from tests.cli.conftest import WEIGHTS, Reflora, killed, records, step_losses, train

SMALL: dict[str, Any] = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
    "method": {"name": "reflora", "layer": "dora", "rank": 4, "alpha": 8.0, "targets": ["q_proj", "o_proj"],
               "update": {"kind": "reflora", "warmup_steps": 3, "interval": 2}, "lr_ratio": 1.0},
    "task": {"name": "builtin/entailment", "max_length": 48, "max_train_rows": 40, "max_eval_rows": 20},
    "train": {"steps": 7, "batch_size": 16, "micro_batch_size": 8, "learning_rate": 3e-3, "head_learning_rate": 1e-3,
              "schedule": "cosine", "warmup_steps": 1, "log_every": 2, "checkpoint_every": 2, "keep_checkpoints": 9},
    "eval": {"every": 3, "at_start": True},
}  # fmt: skip
OF_THE_MACHINE = {
    "run", "seconds", "seconds_per_epoch", "evaluation_seconds", "step_seconds", "tokens_per_second", "resumed",
    "peak_memory_bytes",
}  # fmt: skip
"""What of two runs that are equal is not equal."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "records.yaml"
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(reflora: Reflora, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    return train(reflora, recipe, tmp_path_factory.mktemp("runs") / "whole")


def results_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "results.json").read_text(encoding="utf-8")))


def test_results_say_what_was_chosen(whole: Path) -> None:
    results = results_of(whole)
    expected = {
        "preset": "reflora", "seed": 0, "rank": 4, "alpha": 8.0, "scaling": "standard", "lr_ratio": 1.0,
        "layer": {"kind": "dora"}, "start": {"kind": "default"}, "after": None,
        "update": {"kind": "reflora", "warmup_steps": 3, "interval": 2, "damping": "auto"},
        "targets": {"given": ["q_proj", "o_proj"], "matched": {"q_proj": 5, "o_proj": 5}, "adapted": 10},
        "learning_rate": 3e-3, "head_learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 1,
        "optimizer": "adamw", "batch_size": 16, "micro_batch_size": 8, "max_length": 48, "bits_per_weight": None,
        "resumed": 0, "steps": 7,
    }  # fmt: skip
    assert {key: results[key] for key in expected} == expected


def test_results_say_what_it_ran_on(whole: Path) -> None:
    results, environment = results_of(whole), json.loads((whole / "environment.json").read_text())
    assert results["base_sha256"] == environment["base"]["sha256"]
    assert re.fullmatch("[0-9a-f]{64}", results["base_sha256"])
    assert (results["base_revision"], results["base_commit"]) == (None, None)
    assert results["data"]["train"]["rows"] == 40
    assert results["data"]["validation"]["rows"] == 20
    assert results["threads"] == torch.get_num_threads()
    assert results["versions"]["torch"] == torch.__version__
    assert results["device"].startswith("cpu")


def test_trained_parameters_by_kind_are_those_of_the_file(whole: Path) -> None:
    results, kinds = results_of(whole), {"A": 0, "B": 0, "magnitude": 0, "head": 0}
    names = {"lora_A": "A", "lora_B": "B", "lora_magnitude_vector": "magnitude"}
    for key, tensor in load_file(whole / WEIGHTS).items():
        kinds[next((kind for name, kind in names.items() if name in key), "head")] += tensor.numel()
    assert all(kinds.values())
    assert results["trained_by_kind"] == kinds
    assert results["trained_parameters"] == sum(kinds.values())
    assert results["trained_share"] == results["trained_parameters"] / results["total_parameters"]


def test_losses_and_times_agree_with_the_log(whole: Path) -> None:
    results, losses = results_of(whole), step_losses(whole)
    assert (results["first_loss"], results["last_loss"]) == (losses[0], losses[-1])
    assert results["seconds"] == records(whole, "step")[-1]["seconds"]
    spread = results["step_seconds"]
    assert 0 < spread["p5"] <= spread["median"] <= spread["p95"] <= results["seconds"] * 1.01
    assert results["evaluation_seconds"] > 0
    assert results["tokens_per_second"] == results["tokens"] / results["seconds"]


def test_a_killed_run_has_the_same_results(whole: Path, recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """Killed twice after the same checkpoint: both continuations are counted."""
    part = killed(whole, tmp_path / "part", 1)
    train(reflora, recipe, part, "--resume")
    again = killed(part, tmp_path / "again", 1)
    train(reflora, recipe, again, "--resume")
    results, expected = results_of(again), results_of(whole)
    assert results["resumed"] == 2
    assert results.keys() == expected.keys()
    assert {key: results[key] for key in results.keys() - OF_THE_MACHINE} == {
        key: expected[key] for key in expected.keys() - OF_THE_MACHINE
    }
    assert step_losses(again) == step_losses(whole)


def test_a_checkpoint_of_an_older_version_is_continued(
    whole: Path, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """It tells neither the first loss nor how long steps and evaluations took."""
    part = killed(whole, tmp_path / "part", 1)
    place = part / "checkpoints" / "step-000002"
    state = json.loads((place / "state.json").read_text())
    for key in ("times", "evaluation_seconds", "first_loss", "last_loss"):
        del state[key]
    (place / "state.json").write_text(json.dumps(state))
    (place / "manifest.json").write_text(manifest_of(place))
    train(reflora, recipe, part, "--resume")
    results = results_of(part)
    assert results["first_loss"] is None
    assert results["last_loss"] == step_losses(whole)[-1]
    assert results["tokens"] == results_of(whole)["tokens"]
    tensors, expected = load_file(part / WEIGHTS), load_file(whole / WEIGHTS)
    assert all(torch.equal(tensors[key], own) for key, own in expected.items())


@pytest.mark.parametrize(("every", "steps"), [("log_every", [2, 4, 6, 7]), (3, [3, 6, 7]), (0, [])])
def test_health_is_logged_as_often_as_asked(
    every: object, steps: list[int], whole: Path, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    run = whole
    if every != "log_every":
        run = train(reflora, recipe, tmp_path / "run", f"train.health_every={every}")
    assert [line["step"] for line in records(run, "health")] == steps
    assert [line["step"] for line in records(run, "step")] == [2, 4, 6, 7]
    assert (run / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_the_seed_is_in_the_name_of_a_run(
    recipe: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = reflora("train", recipe, "train.seed=5", "train.steps=4", "--json")
    assert outcome.status == 0, outcome.err
    assert re.fullmatch(r"runs/entailment-reflora-s5-\d{8}-\d{6}", outcome.json["run"])
    assert (tmp_path / outcome.json["run"] / "results.json").is_file()
