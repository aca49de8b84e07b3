"""Runs on a streamed base through the whole command line: the run of a resident base, scored, continued and merged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import FEW, WEIGHTS, Reflora, killed, step_losses, train
from tests.two_processes import run_by_two

SETTINGS = (
    *FEW,
    "train.epochs=3",
    "train.checkpoint_every=2",
    "train.log_every=1",
    "method.layer=dora",
    "eval.every=2",
)


def flat(run: Path) -> torch.Tensor:
    tensors = load_file(run / WEIGHTS)
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.parametrize(
    "settings",
    [("model.streaming=disk",), ("model.streaming=host", "model.quantization=nf4", "train.offload_activations=true")],
    ids=["disk", "nf4 in host memory"],
)
def test_a_streamed_run_is_scored_continued_and_merged(
    settings: tuple[str, ...], recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    run = train(reflora, recipe, tmp_path / "run", *SETTINGS, *settings)
    plain = tuple(own for own in settings if "quantization" in own)
    resident = train(reflora, recipe, tmp_path / "resident", *SETTINGS, *plain)
    assert step_losses(run) == pytest.approx(step_losses(resident), abs=1e-6)
    assert (flat(run) - flat(resident)).norm() < 1e-5 * flat(resident).norm()

    part = train(reflora, recipe, killed(run, tmp_path / "part", 1), *SETTINGS, *settings, "--resume")
    assert (part / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()

    scores = json.loads((run / "results.json").read_text())["scores"]
    again = reflora("eval", run, "--json")
    assert again.status == 0, again.err
    assert again.json["scores"] == scores
    merged = reflora("merge", run, "--output", tmp_path / "merged", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["largest_difference"] <= merged.json["tolerance"]
    assert reflora("export", run, "--format", "peft").status == 0


def test_two_processes_on_a_streamed_base_train_as_one(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    settings = (*SETTINGS, "train.micro_batch_size=8")
    run_by_two("train", recipe, *settings, "model.streaming=host", "--output", tmp_path / "two")
    one, two = train(reflora, recipe, tmp_path / "one", *settings), tmp_path / "two"
    assert json.loads((two / "results.json").read_text())["processes"] == 2
    assert step_losses(one) == pytest.approx(step_losses(two), abs=1e-6)
    assert (flat(one) - flat(two)).norm() < 1e-5 * flat(one).norm()


def test_on_a_cpu_offloading_says_that_it_saves_nothing(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("train", recipe, *FEW, "train.offload_activations=true", "--output", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert "train.offload_activations saves nothing on a CPU" in outcome.err
