"""Training of B alone through the commands: from new factors, on quantized bases, from earlier adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.cli.conftest import WEIGHTS, Reflora, Runs, killed, step_losses, train

SMALL: dict[str, Any] = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
    "method": {"name": "lora-fa", "rank": 4, "alpha": 8.0, "targets": ["q_proj", "down_proj"]},
    "task": {"name": "builtin/entailment", "max_length": 48, "max_train_rows": 64, "max_eval_rows": 16},
    "train": {"steps": 4, "batch_size": 8, "learning_rate": 1e-2, "checkpoint_every": 2, "log_every": 1},
    "eval": {"select": "last"},
}
KINDS = {
    "plain": (),
    "projected, nf4": ("method.update.gradients=projected", "model.quantization=nf4"),
    "pissa, dora": ("method.start=pissa", "method.layer=dora"),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def fa_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "fa.yaml"
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def runs(fa_recipe: Path, reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    place = tmp_path_factory.mktemp("runs")
    return Runs(lambda kind: train(reflora, fa_recipe, place / kind, *KINDS[kind]))


@every_kind
@pytest.mark.parametrize("kept", [0, 1])
def test_a_killed_run_is_continued_to_the_bit(
    kind: str, kept: int, runs: Runs, fa_recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    part = killed(runs[kind], tmp_path / "part", kept)
    train(reflora, fa_recipe, part, *KINDS[kind], "--resume")
    assert (part / WEIGHTS).read_bytes() == (runs[kind] / WEIGHTS).read_bytes()
    assert step_losses(part) == step_losses(runs[kind])


@every_kind
def test_a_run_is_merged_and_exported(kind: str, runs: Runs, reflora: Reflora, tmp_path: Path) -> None:
    merged = reflora("merge", runs[kind], "--output", tmp_path / "merged", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["largest_difference"] <= 1e-4
    assert "LoRA-FA, arXiv 2308.03303" in (tmp_path / "merged" / "README.md").read_text()
    exported = reflora("export", runs[kind], "--format", "peft", "--output", tmp_path / "peft", "--json")
    assert exported.status == 0, exported.err


def test_a_stays_and_half_of_the_moments_are_gone(
    runs: Runs, fa_recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    faster = train(reflora, fa_recipe, tmp_path / "faster", "train.learning_rate=0.1")
    own, other = (load_file(run / WEIGHTS) for run in (runs["plain"], faster))
    assert {key for key in own if not torch.equal(own[key], other[key])} == {k for k in own if "lora_A" not in k}
    state = load_file(runs["plain"] / "checkpoints" / "step-000004" / "optimizer.safetensors")
    assert any(key.endswith("q_proj.B") for key in state)
    assert not any(key.endswith(".A") for key in state)


def test_it_goes_on_from_an_adapter_whose_a_was_trained(fa_recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    first = train(reflora, fa_recipe, tmp_path / "first", "method.name=lora")
    second = train(reflora, fa_recipe, tmp_path / "second", f"method.after={first}", "eval.at_start=true")
    results = [json.loads((run / "results.json").read_text()) for run in (first, second)]
    assert results[1]["before"] == results[0]["scores"]
    own, other = (load_file(run / WEIGHTS) for run in (second, first))
    assert all(torch.equal(own[key], other[key]) is ("lora_A" in key) for key in own)
