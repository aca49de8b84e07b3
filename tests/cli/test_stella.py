"""An update with orthonormal factors, which files hold as LoRA's, through all commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from tests.cli.conftest import WEIGHTS, Reflora, Runs, killed, step_losses, train
from tests.two_processes import run_by_two

RECIPE: dict[str, Any] = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
    "method": {"name": "stella", "rank": 4, "alpha": 4.0},
    "task": {"name": "builtin/questions", "max_length": 48, "max_train_rows": 128, "max_eval_rows": 40},
    "train": {"steps": 6, "batch_size": 16, "learning_rate": 3e-3, "checkpoint_every": 2, "log_every": 1},
    "eval": {"select": "last", "protocol": "choices"},
}
KINDS: dict[str, tuple[str, ...]] = {
    "full": (),
    "diagonal": ("method.layer.diagonal=true", "method.layer.s_initial=0", "method.scaling=rslora"),
    "nf4": ("model.quantization=nf4", "method.update.retraction=exp_map"),
    "sgd": ("train.optimizer=sgd", "train.momentum=0.9", "method.update.width=64", "method.dropout=0.1"),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "stella.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def runs(recipe: Path, reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    place = tmp_path_factory.mktemp("runs")
    return Runs(lambda kind: train(reflora, recipe, place / kind, *KINDS[kind]))


def last_trained(run: Path) -> dict[str, Tensor]:
    return load_file(max(run.glob("checkpoints/step-*")) / "trained.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_a_lora_with_s_absorbed_and_frames_are_orthonormal(kind: str, runs: Runs) -> None:
    factors, adapter = last_trained(runs[kind]), load_file(runs[kind] / WEIGHTS)
    names = [key.removesuffix(".S") for key in factors if key.endswith(".S")]
    assert 2 * len(names) == len(adapter) > 0
    for name in names:
        A, B, S = (factors[f"{name}.{part}"] for part in "ABS")
        assert S.ndim == (1 if kind == "diagonal" else 2)
        for gram in (A @ A.T, B.T @ B):
            torch.testing.assert_close(gram, torch.eye(4), atol=1e-6, rtol=0)
        prefix = f"base_model.model.{name}"
        assert torch.equal(adapter[f"{prefix}.lora_A.weight"], A)
        assert torch.equal(adapter[f"{prefix}.lora_B.weight"], B * S if S.ndim == 1 else B @ S)
    config = json.loads((runs[kind] / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["use_rslora"]) == ("LORA", 4, kind == "diagonal")


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    kind: str, kept: int, runs: Runs, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """Before its first checkpoint, and from one: to the bit, also the factors, which the adapter's file cannot give."""
    run = killed(runs[kind], tmp_path / "run", kept)
    assert [path.name for path in run.glob("checkpoints/step-*")] == (["step-000004"] if kept else [])
    train(reflora, recipe, run, *KINDS[kind], "--resume")
    assert (run / WEIGHTS).read_bytes() == (runs[kind] / WEIGHTS).read_bytes()
    own, other = last_trained(run), last_trained(runs[kind])
    assert own.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in own.items())
    assert step_losses(run) == step_losses(runs[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_scored_and_merged_as_it_was_trained(kind: str, runs: Runs, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("eval", runs[kind], "--json")
    assert outcome.status == 0, outcome.err
    scores = json.loads((runs[kind] / "results.json").read_text())["scores"]["validation"]
    assert {key: outcome.json["tasks"]["validation"][key] for key in scores} == scores
    outcome = reflora("merge", runs[kind], "--output", tmp_path / "merged", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["largest_difference"] <= 1e-4


def test_the_merged_weight_is_w_and_s_u_s_v(runs: Runs, reflora: Reflora, tmp_path: Path) -> None:
    assert reflora("merge", runs["full"], "--output", tmp_path / "merged").status == 0
    base = Path(json.loads((runs["full"] / "adapter/adapter_config.json").read_text())["base_model_name_or_path"])
    own, before = (load_file(place / "model.safetensors") for place in (tmp_path / "merged", base))
    name, factors = "model.layers.0.mlp.down_proj", last_trained(runs["full"])
    A, B, S = (factors[f"{name}.{part}"].double() for part in "ABS")
    change = 4.0 / 4 * B @ S @ A
    assert change.abs().max() > 0.05
    expected = before[f"{name}.weight"].double() + change
    torch.testing.assert_close(own[f"{name}.weight"].double(), expected, atol=1e-6, rtol=1e-6)


def test_peft_and_llama_cpp_read_it_and_its_card_is_true(runs: Runs, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("export", runs["diagonal"], "--format", "peft", "--output", tmp_path / "peft", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["checked_by"].startswith("PEFT ")
    assert outcome.json["vllm"].startswith("vLLM serves it")
    card = " ".join((tmp_path / "peft" / "README.md").read_text().split())
    assert "arXiv 2510.01938" in card
    assert "the adapter holds V^T as A and U S as B" in card
    pytest.importorskip("gguf", reason="gguf is not installed")
    outcome = reflora("export", runs["full"], "--format", "gguf-adapter", "--output", tmp_path / "gguf")
    assert outcome.status == 0, outcome.err


def test_a_lora_goes_on_from_it_and_its_own_layer_does_not(
    runs: Runs, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    open_recipe = tmp_path / "open.yaml"
    values = {**RECIPE, "method": {"name": "lora", "after": str(runs["full"])}}
    open_recipe.write_text(yaml.safe_dump({**values, "eval": {**RECIPE["eval"], "at_start": True}}), encoding="utf-8")
    run = train(reflora, open_recipe, tmp_path / "second")
    results = [json.loads((place / "results.json").read_text()) for place in (runs["full"], run)]
    assert results[1]["before"] == results[0]["scores"]
    outcome = reflora("train", recipe, f"method.after={runs['full']}", "--output", tmp_path / "third")
    assert outcome.status == 2
    for words in ("stella in the recipe", "lora, as in", "merge the adapter and train on the merged model"):
        assert words in " ".join(outcome.err.split())


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("method.start=pissa", "method.start=pissa is for pairs A, B, and method.layer=stella trains none"),
        ("method.lr_ratio=4", "method.lr_ratio=4.0 is for pairs A, B, and method.layer=stella trains none"),
        ("method.update=reflora", "method.update=reflora is for pairs A, B, and method.layer=stella trains none"),
        ("method.layer=dora", "method.update=stiefel is for orthonormal frames, and method.layer=dora has none"),
        ("method.rank=500", "the rank is larger than an adapted weight allows"),
    ],
)
def test_what_makes_no_sense_is_refused(
    setting: str, words: str, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    outcome = reflora("train", recipe, setting, "--output", tmp_path / "run")
    assert outcome.status == 2
    assert words in " ".join(outcome.err.split())


def test_two_processes_train_what_one_does(runs: Runs, recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_by_two("train", recipe, "--output", run)
    assert step_losses(run) == pytest.approx(step_losses(runs["full"]), abs=1e-5)
    own, other = last_trained(run), last_trained(runs["full"])
    for name, tensor in other.items():
        torch.testing.assert_close(own[name], tensor, atol=1e-4, rtol=0)
