"""Full fine-tuning and BitFit through the commands: trained, continued, scored, merged, refused where that fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.cli.conftest import WEIGHTS, Reflora, killed, records, step_losses, train
from tests.cli.test_models import saved
from tests.models import make
from tests.two_processes import run_by_two

PREFIX = "base_model.model."
SMALL = ("task.max_train_rows=64", "task.max_eval_rows=24", "task.max_length=32", "train.batch_size=8",
         "train.epochs=1", "train.checkpoint_every=3", "train.keep_checkpoints=9", "train.log_every=1",
         "train.learning_rate=1e-3")  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder, whose linear layers have biases."""
    config = make("bert").config
    config.vocab_size, config.pad_token_id, config.max_position_embeddings = 1500, 0, 64
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    return saved(model, tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def full(recipe: Path, reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(reflora, recipe, tmp_path_factory.mktemp("runs") / "full", *SMALL, "method.name=full")


@pytest.fixture(scope="module")
def answering_full(language_recipe: Path, reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model under gradient checkpointing and packing."""
    settings = ("method.name=full", "train.packing=true", "train.gradient_checkpointing=true")
    return train(reflora, language_recipe, tmp_path_factory.mktemp("runs") / "language", *SMALL, *settings)


@pytest.fixture(scope="module")
def bitfit(recipe: Path, bert: Path, reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The biases of a base in four bits."""
    settings = ("method.name=bitfit", f"model.name={bert}", "model.quantization=nf4")
    return train(reflora, recipe, tmp_path_factory.mktemp("runs") / "bitfit", *SMALL, *settings)


def results(run: Path) -> Any:
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


def test_the_adapter_is_every_parameter(full: Path) -> None:
    stored = load_file(full / WEIGHTS)
    found = results(full)
    assert found["trained_parameters"] == found["total_parameters"] == sum(t.numel() for t in stored.values())
    assert found["method"] == "full"
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert records(full, "health") == []  # there are no A and B


def test_the_merged_model_is_the_trained_one_to_the_bit(full: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("merge", full, "--output", tmp_path / "merged", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["largest_difference"] == 0
    merged = load_file(tmp_path / "merged/model.safetensors")
    stored = {key.removeprefix(PREFIX): tensor for key, tensor in load_file(full / WEIGHTS).items()}
    assert merged.keys() == stored.keys()
    assert all(torch.equal(tensor, stored[key]) for key, tensor in merged.items())
    card = (tmp_path / "merged/README.md").read_text(encoding="utf-8")
    assert "with full, seed 0" in card
    assert "Devlin et al. 2018" in card


@pytest.mark.parametrize("run", ["full", "bitfit", "answering_full"])
def test_a_run_is_scored_as_it_was(run: str, reflora: Reflora, request: pytest.FixtureRequest) -> None:
    place: Path = request.getfixturevalue(run)
    outcome = reflora("eval", place, "--json")
    assert outcome.status == 0, outcome.err
    scores = results(place)["scores"]["validation"]
    again = outcome.json["scores"]["validation"] if "scores" in outcome.json else outcome.json["tasks"]["validation"]
    assert {name: again[name] for name in scores} == scores


@pytest.mark.parametrize("run", ["full", "bitfit"])
@pytest.mark.parametrize("kept", [1, 0])
def test_a_run_that_was_cut_off_is_continued_to_the_same_bytes(
    run: str, kept: int, reflora: Reflora, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """After the first checkpoint, and before it."""
    whole: Path = request.getfixturevalue(run)
    assert len(list(whole.glob("checkpoints/step-*"))) == 3
    cut = killed(whole, tmp_path / "cut", kept)
    outcome = reflora("train", whole / "recipe.yaml", "--output", cut, "--resume")
    assert outcome.status == 0, outcome.err
    assert ("continuing from" in outcome.err) == bool(kept)
    assert (cut / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert step_losses(cut) == step_losses(whole)


def test_biases_alone_are_trained_on_quantized_weights(bitfit: Path, bert: Path, reflora: Reflora) -> None:
    stored, base = load_file(bitfit / WEIGHTS), load_file(bert / "model.safetensors")
    biases = {PREFIX + name for name in base if name.endswith("bias")}
    assert stored.keys() == biases | {f"{PREFIX}classifier.weight"}
    assert all(not torch.equal(stored[name], base[name.removeprefix(PREFIX)]) for name in biases)
    outcome = reflora("merge", bitfit, "--json")
    assert outcome.status == 0, outcome.err
    merged = load_file(bitfit / "merged/model.safetensors")
    assert all(torch.equal(merged[name.removeprefix(PREFIX)], tensor) for name, tensor in stored.items())
    outcome = reflora("merge", bitfit, "--base-weights", "original", "--output", bitfit / "original", "--json")
    assert outcome.status == 0, outcome.err
    original = load_file(bitfit / "original/model.safetensors")
    assert all(torch.equal(original[name], base[name]) for name in base if f"{PREFIX}{name}" not in stored)


def test_half_precision_and_small_moments(recipe: Path, bert: Path, reflora: Reflora, tmp_path: Path) -> None:
    """Master copies are float32; the merged model has the run's dtype, or float32 to the bit."""
    settings = ("method.name=full", f"model.name={bert}", "model.dtype=bfloat16", "train.optimizer=adamw_8bit")
    run = train(reflora, recipe, tmp_path / "run", *SMALL, *settings)
    stored = load_file(run / WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert reflora("merge", run, "--output", tmp_path / "half").status == 0
    assert reflora("merge", run, "--dtype", "float32", "--output", tmp_path / "single").status == 0
    half, single = (load_file(tmp_path / name / "model.safetensors") for name in ("half", "single"))
    assert all(torch.equal(single[key.removeprefix(PREFIX)], tensor) for key, tensor in stored.items())
    assert all(torch.equal(half[key], tensor.bfloat16()) for key, tensor in single.items())


def test_it_goes_to_other_tools_as_a_merged_model(
    bitfit: Path, answering_full: Path, reflora: Reflora, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("gguf", reason="gguf is not installed")
    outcome = reflora("export", bitfit, "--format", "onnx", "--output", tmp_path / "onnx", "--json")
    assert outcome.status == 0, outcome.err
    arguments = ("--format", "gguf", "--gguf-type", "f32", "--output", tmp_path / "gguf", "--json")
    outcome = reflora("export", answering_full, *arguments)
    assert outcome.status == 0, outcome.err
    assert outcome.json["largest_difference"] <= 1e-4


@pytest.mark.parametrize(
    ("format", "words"),
    [("peft", "PEFT has no type of adapter"), ("gguf-adapter", "supports LoRA adapters only")],
)
def test_it_is_no_adapter(format: str, words: str, answering_full: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("export", answering_full, "--format", format, "--output", tmp_path / "out")
    assert outcome.status == 2
    assert words in outcome.err
    assert "merge it instead: reflora" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_no_run_begins_from_it_but_on_the_merged_model(
    method: str, full: Path, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    after = (f"method.name={method}", f"method.after={full}")
    outcome = reflora("train", recipe, *SMALL, *after, "--output", tmp_path / "run")
    assert outcome.status == 2
    assert "train on the merged model" in outcome.err
    assert not (tmp_path / "run").exists()


def test_a_model_without_biases_is_refused(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("train", recipe, *SMALL, "method.name=bitfit", "--output", tmp_path / "run")
    assert outcome.status == 2
    assert "the model has no biases to train" in outcome.err
    assert "LlamaForSequenceClassification" in outcome.err


def test_parameters_that_no_gradient_reaches_are_left_out(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """ESM's head for contacts is no part of a classifier."""
    from tests.architectures import ENCODERS
    from tests.random_models import classifier

    torch.manual_seed(0)
    base = saved(classifier(ENCODERS["esm"], vocab_size=1500), tmp_path / "base")
    settings = ("method.name=full", f"model.name={base}")
    outcome = reflora("train", recipe, *SMALL, *settings, "--dry-run", "--json")
    assert outcome.status == 0, outcome.err
    assert "contact_head.regression.weight" in outcome.json["plan"]["not adapted"]
    only = (*settings, "method.targets=[contact_head]")
    outcome = reflora("train", recipe, *SMALL, *only, "--output", tmp_path / "run")
    assert outcome.status == 2
    assert "no gradient reaches the parameters of a target" in outcome.err


def test_two_processes_train_as_one(full: Path, tmp_path: Path) -> None:
    run_by_two("train", full / "recipe.yaml", "train.micro_batch_size=4", "--output", tmp_path / "two")
    assert step_losses(tmp_path / "two") == pytest.approx(step_losses(full), abs=1e-5)
    one, two = (torch.cat([t.flatten() for _, t in sorted(load_file(run / WEIGHTS).items())])
                for run in (full, tmp_path / "two"))  # fmt: skip
    assert (one - two).norm() < 1e-4 * one.norm()
