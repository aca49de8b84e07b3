"""Starts from the weight, some with rows, through the commands: trained, interrupted, scored, merged, exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from reflora_cli.methods.presets import PRESETS
from reflora_cli.methods.starts import STARTS
from tests.cli.conftest import WEIGHTS, Reflora, Runs, killed, step_losses, train
from tests.two_processes import run_by_two

RECIPE: dict[str, Any] = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
    "method": {"name": "lora", "rank": 4, "alpha": 6.0, "targets": ["q_proj", "down_proj"]},
    "task": {"name": "builtin/questions", "max_length": 40, "max_train_rows": 32, "max_eval_rows": 8},
    "train": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "checkpoint_every": 2, "log_every": 1},
    "eval": {"protocol": "choices"},
}
RUNS = {
    "milora": ("method.name=milora",),
    "milora, dora, nf4": ("method.name=milora", "method.layer=dora", "model.quantization=nf4"),
    "milora, lora+": ("method.name=milora", "method.lr_ratio=4", "method.update=reflora-s"),
    "olora": ("method.name=olora",),
    "olora, dora, int8": ("method.name=olora", "method.layer=dora", "model.quantization=int8"),
    "olora, rslora": ("method.name=olora", "method.scaling=rslora", "method.update=reflora"),
    "orthogonal": ("method.name=orthogonal",),
    "orthogonal, dora, nf4": ("method.name=orthogonal", "method.layer=dora", "model.quantization=nf4"),
    "orthogonal, reflora": ("method.name=orthogonal", "method.update=reflora"),
    "loftq": ("method.name=loftq", "model.quantization=nf4"),
    "loftq, one round": ("method.name=loftq", "method.start.rounds=1", "model.quantization=nf4"),
    "loftq, dora, int8": ("method.name=loftq", "method.layer=dora", "model.quantization=int8"),
    "loftq, all": (
        "method.name=loftq",
        "method.targets=[q_proj,lm_head,down_proj]",
        "model.quantization=fp4",
        "method.update=reflora",
        "model.double_quant=false",
    ),
    "lq-lora": ("method.name=lq-lora", "model.quantization=nf4", "method.lr_ratio=4"),
    "lq-lora, dora": (
        "method.name=lq-lora",
        "method.layer=dora",
        "model.quantization=nf4",
        "method.start.iterations=4",
    ),
    "corda": ("method.name=corda", "method.start.rows=16"),
    "corda, knowledge preserved": (
        "method.name=corda",
        "method.start.mode=kpm",
        "method.layer=dora",
        "model.quantization=nf4",
        "method.update=reflora",
    ),
    "lora-ga": ("method.name=lora-ga", "method.start.rows=16"),
    "lora-ga, dora, nf4": (
        "method.name=lora-ga",
        "method.layer=dora",
        "model.quantization=nf4",
        "method.start.iterations=4",
        "method.update=scaled-gd",
    ),
    "lora-one": ("method.name=lora-one", "method.start.rows=16"),
    "lora-one, dora, nf4": (
        "method.name=lora-one",
        "method.layer=dora",
        "model.quantization=nf4",
        "method.update=plain",
        "method.lr_ratio=4",
    ),
}
"""Settings by name, which begins with the preset's."""
every_run = pytest.mark.parametrize("name", RUNS)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "starts.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def runs(recipe: Path, reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    place = tmp_path_factory.mktemp("runs")
    return Runs(lambda name: train(reflora, recipe, place / name, "method.refactor.warmup_steps=1", *RUNS[name]))


@every_run
@pytest.mark.parametrize("kept", [0, 1])
def test_a_killed_run_is_continued_to_the_bit(
    name: str, kept: int, runs: Runs, reflora: Reflora, tmp_path: Path
) -> None:
    part = killed(runs[name], tmp_path / "part", kept)
    outcome = reflora("train", part / "recipe.yaml", "--output", part, "--resume")
    assert outcome.status == 0, outcome.err
    sees = STARTS[str(PRESETS[name.partition(",")[0]].settings["start"])]().sees_data
    assert ("before the first step" in outcome.err) == (sees and kept == 0)
    assert (part / WEIGHTS).read_bytes() == (runs[name] / WEIGHTS).read_bytes()
    assert step_losses(part) == step_losses(runs[name])


@every_run
def test_the_run_scores_and_merges_as_what_was_trained(name: str, runs: Runs, reflora: Reflora, tmp_path: Path) -> None:
    run, preset = runs[name], name.partition(",")[0]
    scored = reflora("eval", run, "--output", tmp_path / "scores", "--json")
    assert scored.status == 0, scored.err
    found, results = scored.json["tasks"]["validation"], json.loads((run / "results.json").read_text())
    assert found["accuracy_by_character"] == results["scores"]["validation"]["accuracy_by_character"]
    merged = reflora("merge", run, "--output", tmp_path / "merged", "--dtype", "float32", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["largest_difference"] <= 2e-5
    assert merged.json["changed_predictions"] == 0
    card = (tmp_path / "merged" / "README.md").read_text()
    assert STARTS[str(PRESETS[preset].settings["start"])].source in card


@every_run
def test_peft_reads_it_on_the_original_base(name: str, runs: Runs, reflora: Reflora, tmp_path: Path) -> None:
    exported = reflora("export", runs[name], "--format", "peft", "--output", tmp_path / "peft", "--json")
    assert exported.status == 0, exported.err
    assert exported.json["checked_by"].startswith("PEFT")


@every_run
def test_training_goes_on_from_it(name: str, runs: Runs, recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    bases = [own for own in RUNS[name] if own.startswith(("model", "method.layer", "method.targets"))]
    after = (f"method.after={runs[name]}", "eval.at_start=true", "train.steps=2", "train.epochs=null", *bases)
    second = train(reflora, recipe, tmp_path / "more", *after)
    first, more = (json.loads((run / "results.json").read_text()) for run in (runs[name], second))
    assert more["before"] == first["scores"]
    key = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
    one, two = (load_file(run / WEIGHTS)[key] for run in (runs[name], second))
    assert one.shape == two.shape
    assert not one[:4].equal(two[:4])


@pytest.mark.parametrize("preset", ["loftq", "lq-lora"])
def test_a_base_whose_error_cannot_be_corrected_is_refused(
    preset: str, runs: Runs, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """One that is not quantized, one in two bits, targets that are not, and a checkpoint that holds codes only."""
    packed = tmp_path / "packed"
    assert reflora("merge", runs["loftq"], "--requantize", "nf4", "--output", packed).status == 0
    refused = {
        (): "corrects the error of a quantized base, and model.quantization is none",
        ("model.quantization=nf2",): "wrong value for model.quantization",
        ("model.quantization=nf4", "method.targets=[lm_head]"): "no adapted module is quantized",
        (f"model.name={packed}", "model.quantization=nf4"): "the base's files do not hold them",
    }
    for settings, reason in refused.items():
        outcome = reflora("train", recipe, f"method.name={preset}", *settings, "--output", tmp_path / "run")
        assert outcome.status == 2
        assert reason in " ".join(outcome.err.split())
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["corda, knowledge preserved", "lora-ga", "lora-one, dora, nf4"])
def test_two_processes_start_as_one(name: str, runs: Runs, recipe: Path, tmp_path: Path) -> None:
    """The first one looks, and all have its factors and move their base; the steps are one process's to rounding."""
    run = tmp_path / "run"
    run_by_two("train", recipe, "method.refactor.warmup_steps=1", *RUNS[name], "--output", run)
    assert step_losses(run) == pytest.approx(step_losses(runs[name]), abs=1e-4)


def test_a_gradient_is_seen_through_recomputed_activations_and_told(
    runs: Runs, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    settings = (*RUNS["lora-ga"], "train.gradient_checkpointing=true", "--output", tmp_path / "run")
    outcome = reflora("train", recipe, *settings)
    assert outcome.status == 0, outcome.err
    assert "before the first step, lora-ga looks at 16 training rows" in outcome.err
    assert "lora-ga: 16 rows" in outcome.err
    assert step_losses(tmp_path / "run") == pytest.approx(step_losses(runs["lora-ga"]), abs=1e-5)
