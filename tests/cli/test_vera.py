"""A method without pairs A, B, whose layers share tensors, through all commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from reflora_cli.adapters import inject as inject_module
from reflora_cli.adapters.vera import Projections
from tests.cli.conftest import LANGUAGE_RECIPE, WEIGHTS, Reflora, killed, records, step_losses, train
from tests.two_processes import run_by_two

SMALL: dict[str, Any] = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
    "method": {"name": "vera", "rank": 48},
    "task": {"name": "builtin/entailment", "max_length": 48, "max_train_rows": 128, "max_eval_rows": 40},
    "train": {"steps": 6, "batch_size": 16, "learning_rate": 2e-2, "checkpoint_every": 2, "log_every": 1},
    "eval": {"select": "last"},
}


@pytest.fixture(scope="module")
def vera_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "vera.yaml"
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def vera_run(reflora: Reflora, vera_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    return train(reflora, vera_recipe, tmp_path_factory.mktemp("runs") / "vera")


def adapter(run: Path) -> dict[str, Tensor]:
    return load_file(run / WEIGHTS)


def test_a_word_makes_any_recipe_train_it(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """One with alpha and with settings of RefLoRA's; what is shown names neither alpha nor a pair."""
    outcome = reflora("train", recipe, "method.name=vera", "train.steps=3", "--output", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert "vera, rank 4\n" in outcome.err
    assert records(tmp_path / "run", "health") == []  # there are no A and B


def test_the_vectors_are_trained_and_the_projections_are_not(vera_run: Path) -> None:
    tensors = adapter(vera_run)
    vectors = {key: own for key, own in tensors.items() if "vera_lambda" in key}
    assert len(vectors) == 70
    assert all(own.any() for own in vectors.values())
    assert all((own - 0.1).any() for key, own in vectors.items() if key.endswith("_d"))
    bound = (6 / tensors["base_model.vera_A"].shape[1]) ** 0.5
    drawn = torch.empty_like(tensors["base_model.vera_A"]).uniform_(
        -bound, bound, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(tensors["base_model.vera_A"], drawn)
    losses = step_losses(vera_run)
    assert len(losses) == 6
    assert losses[-1] != losses[0]


def test_evaluation_repeats_the_scores(vera_run: Path, reflora: Reflora) -> None:
    outcome = reflora("eval", vera_run, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["scores"] == json.loads((vera_run / "results.json").read_text())["scores"]


@pytest.mark.parametrize("kept", [0, 1])
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    kept: int, vera_run: Path, vera_recipe: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first checkpoint, and from one, where the projections are those of the checkpoint and not drawn."""
    run = killed(vera_run, tmp_path / "run", kept)
    left = [path.name for path in run.glob("checkpoints/step-*")]
    assert left == (["step-000004"] if kept else [])
    if kept:
        monkeypatch.setattr(inject_module, "drawn", by_another_torch)
    train(reflora, vera_recipe, run, "--resume")
    assert (run / WEIGHTS).read_bytes() == (vera_run / WEIGHTS).read_bytes()
    assert step_losses(run) == step_losses(vera_run)


def by_another_torch(seed: int, rank: int, weights: Any) -> Projections:
    own = list(weights)
    shape = max(weight.in_features for weight in own), max(weight.out_features for weight in own)
    return Projections(torch.ones(rank, shape[0]), torch.ones(shape[1], rank), torch.device("cpu"))


def test_a_checkpoint_holds_the_projections_once(vera_run: Path) -> None:
    newest = max(vera_run.glob("checkpoints/step-*"))
    trained = load_file(newest / "trained.safetensors")
    assert len([key for key in trained if "projections" in key]) == 2


def test_a_merged_model_is_verified(vera_run: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("merge", vera_run, "--output", tmp_path / "merged", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["largest_difference"] <= 1e-4
    own, base = (load_file(path / "model.safetensors") for path in (tmp_path / "merged", base_of(vera_run)))
    key = "model.layers.0.mlp.down_proj.weight"
    tensors = adapter(vera_run)
    d, b = (tensors[f"base_model.model.{key.removesuffix('.weight')}.vera_lambda_{name}"].double() for name in "db")
    out, width = base[key].shape
    A, B = tensors["base_model.vera_A"][:, :width].double(), tensors["base_model.vera_B"][:out].double()
    expected = base[key].double() + torch.diag(b) @ B @ torch.diag(d) @ A
    torch.testing.assert_close(own[key].double(), expected, atol=1e-6, rtol=1e-6)
    assert (own[key] - base[key].float()).abs().max() > 1e-4


def base_of(run: Path) -> Path:
    return Path(json.loads((run / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"])


def test_an_export_is_read_back_by_peft_and_its_card_is_true(vera_run: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("export", vera_run, "--format", "peft", "--output", tmp_path / "peft", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["checked_by"].startswith("PEFT ")
    written = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert written.keys() == adapter(vera_run).keys()
    card = (tmp_path / "peft" / "README.md").read_text()
    assert "arXiv 2310.11454" in card
    assert "with vera, rank 48, seed 0" in card
    assert "vLLM cannot serve the adapter itself: it supports LoRA only" in card


def test_a_run_may_begin_from_it(vera_run: Path, vera_recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """Its own recipe, which names another seed, does not change what the adapter is; another layer is refused."""
    earlier = train(reflora, vera_recipe, tmp_path / "first", "method.layer.projection_seed=9")
    open_recipe = tmp_path / "open.yaml"
    method = {"name": "vera", "after": str(earlier)}
    open_recipe.write_text(yaml.safe_dump({**SMALL, "method": method, "eval": {"at_start": True, "select": "last"}}))
    run = train(reflora, open_recipe, tmp_path / "second", "method.dropout=0.1")
    results = [json.loads((place / "results.json").read_text()) for place in (earlier, run)]
    assert results[1]["before"] == results[0]["scores"]
    first, second = adapter(earlier), adapter(run)
    assert torch.equal(first["base_model.vera_A"], second["base_model.vera_A"])
    assert not torch.equal(first["base_model.vera_A"], adapter(vera_run)["base_model.vera_A"])
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert (config["projection_prng_key"], config["r"], config["vera_dropout"]) == (9, 48, 0.1)
    for name, said in (
        ("dora", "to change the layer"),
        ("reflora", "is for pairs A, B, and method.layer=vera trains none"),
    ):
        outcome = reflora("train", open_recipe, f"method.name={name}", "--output", tmp_path / name)
        assert outcome.status == 2
        assert said in outcome.err


def test_a_quantized_base_is_trained_resumed_and_merged(vera_recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    more = ("model.quantization=nf4", "train.steps=4")
    run = train(reflora, vera_recipe, tmp_path / "run", *more)
    again = killed(run, tmp_path / "again", 1)
    train(reflora, vera_recipe, again, *more, "--resume")
    assert (again / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
    outcome = reflora("merge", run, "--output", tmp_path / "merged", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["largest_difference"] <= 1e-4


def test_a_language_model_becomes_gguf_and_its_adapter_does_not(reflora: Reflora, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    recipe = tmp_path / "questions.yaml"
    values = {**LANGUAGE_RECIPE, "method": {"name": "vera", "rank": 32}}
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    run = train(reflora, recipe, tmp_path / "run", "task.max_train_rows=64", "task.max_eval_rows=16")
    outcome = reflora("export", run, "--format", "gguf-adapter")
    assert outcome.status == 2
    assert "llama.cpp supports LoRA adapters only" in outcome.err
    assert "merge it instead: reflora export RUN --format gguf" in outcome.err
    outcome = reflora("export", run, "--format", "gguf", "--gguf-type", "f32", "--output", tmp_path / "gguf", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["largest_difference"] < 1e-3


def test_two_processes_train_what_one_does(vera_run: Path, vera_recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_by_two("train", vera_recipe, "--output", run)
    assert step_losses(run) == pytest.approx(step_losses(vera_run), abs=1e-5)
    for key, tensor in adapter(vera_run).items():
        torch.testing.assert_close(adapter(run)[key], tensor, atol=1e-4, rtol=0)
