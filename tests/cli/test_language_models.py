"""Language models through the whole command line: train, merge, export, on prompts and answers."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from tests.cli.conftest import FEW, LANGUAGE_RECIPE, Reflora, step_losses
from tests.language_models import saved
from tests.two_processes import run_by_two

METHODS = ("lora", "dora", "reflora", "reflora-s")
WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def recipe(language_recipe: Path) -> Path:
    return language_recipe


@pytest.fixture(scope="module")
def instructions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of very unequal lengths, as a user may bring them."""
    path = tmp_path_factory.mktemp("data") / "instructions.json"
    rows = [
        {"instruction": "Repeat." + " again" * (index % 7), "input": "", "output": "the cup " * (1 + index % 11)}
        for index in range(96)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_quickstart_learns_facts_it_was_not_trained_on(reflora: Reflora, tmp_path: Path) -> None:
    """The bundled recipe on a part of its rows: more right answers, about other objects."""
    arguments = ("task.max_train_rows=1500", "train.epochs=2", "task.max_eval_rows=240")
    outcome = reflora("train", "quickstart-commonsense", *arguments, "--output", tmp_path / "run", "--json")
    assert outcome.status == 0, outcome.err
    before, after = (outcome.json[key]["validation"]["accuracy"] for key in ("before", "scores"))
    assert after > before + 0.1


def test_results_say_how_they_came_about(answering: Path) -> None:
    results = json.loads((answering / "results.json").read_text())
    assert results["main_metric"] == "accuracy"
    assert results["settings"] == {"train_on_prompt": False, "protocol": "choices"}
    assert set(results["scores"]["validation"]) == {"accuracy", "accuracy_by_character", "cut"}
    config = json.loads((answering / "adapter" / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("CAUSAL_LM", [])


def test_published_way_holds_rows_out_and_selects_by_their_loss(
    recipe: Path, small_commonsense: Path, reflora: Reflora, tmp_path: Path
) -> None:
    arguments = (
        "task.name=commonsense", f"task.data={small_commonsense}", "task.validation_rows=8", "task.max_length=256",
        "task.train_on_prompt=true", "train.epochs=2", "method.refactor.warmup_steps=1", "eval.every=1",
    )  # fmt: skip
    outcome = reflora("train", recipe, *arguments, "--output", tmp_path / "run", "--json")
    assert outcome.status == 0, outcome.err
    results = outcome.json
    assert results["main_metric"] == "loss"
    assert results["settings"] == {"train_on_prompt": True}
    losses = {entry["step"]: entry["scores"]["validation"]["loss"] for entry in results["history"]}
    assert losses[results["selected_step"]] == min(losses.values())
    assert (tmp_path / "run" / "curves.png").stat().st_size > 0
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["data"]["validation"]["rows"] == 8
    assert reflora("merge", tmp_path / "run").status == 0


@pytest.mark.parametrize("method", METHODS)
def test_instructions_of_ones_own_lower_the_loss(
    method: str, recipe: Path, instructions: Path, reflora: Reflora, tmp_path: Path
) -> None:
    arguments = (
        f"method.name={method}", "task.name=instruct", f"task.data={instructions}", "task.validation_rows=16",
        "task.max_length=96", "train.epochs=3", "train.batch_size=16",
    )  # fmt: skip
    outcome = reflora("train", recipe, *arguments, "--output", tmp_path / "run", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["scores"]["validation"]["loss"] < 0.5 * outcome.json["before"]["validation"]["loss"]
    again = reflora("eval", tmp_path / "run", "--json")
    assert again.status == 0, again.err
    assert again.json["tasks"]["validation"]["rows"] == 16
    assert again.json["tasks"]["validation"]["loss"] == pytest.approx(outcome.json["scores"]["validation"]["loss"])
    whole = reflora("eval", tmp_path / "run", "--split", "train", "--json")
    assert whole.json["tasks"]["train"]["rows"] == LANGUAGE_RECIPE["task"]["max_eval_rows"]


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_accumulation_equals_one_large_batch(
    method: str, recipe: Path, instructions: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """4 x 8 rows of very unequal lengths against 32 at once: normalized by tokens, not by rows or micro-batches."""
    arguments = (
        f"method.name={method}", "task.name=instruct", f"task.data={instructions}", "task.max_length=96",
        "eval.every=never", "eval.select=last", "eval.at_start=false", "train.log_every=1",
    )  # fmt: skip
    found = []
    for size in (8, 32):
        place = tmp_path / str(size)
        outcome = reflora("train", recipe, *arguments, f"train.micro_batch_size={size}", "--output", place)
        assert outcome.status == 0, outcome.err
        found.append((step_losses(place), load_file(place / WEIGHTS)))
    assert len(found[0][0]) == 3
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    for name, tensor in found[0][1].items():
        torch.testing.assert_close(tensor, found[1][1][name], atol=1e-5, rtol=0)


def test_packing_changes_no_step(recipe: Path, instructions: Path, reflora: Reflora, tmp_path: Path) -> None:
    arguments = (
        "method.name=lora", "task.name=instruct", f"task.data={instructions}", "task.max_length=96",
        "eval.every=never", "eval.select=last", "eval.at_start=false", "train.log_every=1",
    )  # fmt: skip
    found = []
    for packing in ("false", "true"):
        place = tmp_path / packing
        outcome = reflora("train", recipe, *arguments, f"train.packing={packing}", "--output", place)
        assert ("rows share sequences" in outcome.err) == (packing == "true")
        assert outcome.status == 0, outcome.err
        found.append((step_losses(place), load_file(place / WEIGHTS)))
    assert len(found[0][0]) == 3
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    for name, tensor in found[0][1].items():
        torch.testing.assert_close(tensor, found[1][1][name], atol=1e-5, rtol=0)


def test_two_processes_train_and_score_as_one(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """With gloo: the same loss, adapter and accuracy as one process."""
    settings = ["eval.at_start=false", "train.log_every=1", "method.name=lora", "task.max_eval_rows=30"]
    run_by_two("train", recipe, *settings, "--output", tmp_path / "two")
    assert reflora("train", recipe, *settings, "--output", tmp_path / "one").status == 0
    one, two = (step_losses(tmp_path / name) for name in ("one", "two"))
    assert one == pytest.approx(two, abs=1e-5)
    scores = [json.loads((tmp_path / name / "results.json").read_text())["scores"] for name in ("one", "two")]
    assert scores[0] == scores[1]
    own, other = (load_file(tmp_path / name / WEIGHTS) for name in ("one", "two"))
    for name, tensor in own.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "method"), [("gpt2", "dora"), ("mistral-window", "reflora"), ("qwen3", "dora")])
def test_architectures_train_merge_and_reload(
    name: str, method: str, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """The merged model is plain transformers with the same answers; the contract tests have more architectures."""
    model = saved(name, tmp_path / "base")
    run = tmp_path / "run"
    small = ("train.steps=6", "task.max_eval_rows=8", "task.max_train_rows=96", "train.batch_size=16")
    outcome = reflora(
        "train", recipe, f"model.name={model}", f"method.name={method}", *small, "--output", run, "--json"
    )
    assert outcome.status == 0, outcome.err
    merged = reflora("merge", run, "--output", tmp_path / "merged", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["largest_difference"] <= 1e-4
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert type(loaded) is type(transformers.AutoModelForCausalLM.from_pretrained(model))
    scored = reflora("eval", recipe, f"model.name={tmp_path / 'merged'}", *small, "--output", tmp_path / "e", "--json")
    assert scored.status == 0, scored.err
    accuracy = outcome.json["scores"]["validation"]["accuracy"]
    assert scored.json["tasks"]["validation"]["accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize("method", METHODS)
def test_exported_adapter_gives_the_same_logits_in_peft(
    method: str, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = (f"method.name={method}", "task.max_eval_rows=8", "eval.at_start=false")
    assert reflora("train", recipe, *arguments, "--output", run).status == 0
    outcome = reflora("export", run, "--format", "peft", "--output", tmp_path / "peft")
    assert outcome.status == 0, outcome.err
    assert "AutoModelForCausalLM" in (tmp_path / "peft" / "README.md").read_text()
    assert reflora("merge", run, "--output", tmp_path / "merged").status == 0
    location = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["base_model_name_or_path"]
    base = transformers.AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "peft")
    inputs = tokenizer(["Question: What is a cup? Answer:", "Who?"], padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        torch.testing.assert_close(theirs(**inputs).logits, merged(**inputs).logits, atol=2e-5, rtol=1e-5)


def test_a_trained_head_is_untied_when_it_is_merged(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """tiny-llama ties head and embedding: an adapter on the head must not change what the model reads."""
    run = tmp_path / "run"
    arguments = ("method.targets=[lm_head, q_proj]", "task.max_eval_rows=8", "method.name=lora")
    assert reflora("train", recipe, *arguments, "--output", run).status == 0
    outcome = reflora("merge", run, "--output", tmp_path / "merged", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["largest_difference"] <= 1e-4
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert loaded.config.tie_word_embeddings is False
    assert not torch.equal(loaded.lm_head.weight, loaded.model.embed_tokens.weight)


def test_bfloat16_and_gradient_checkpointing(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    arguments = ("model.dtype=bfloat16", "train.gradient_checkpointing=true", *FEW)
    outcome = reflora("train", recipe, *arguments, "--output", tmp_path / "run", "--json")
    assert outcome.status == 0, outcome.err
    merged = reflora("merge", tmp_path / "run", "--json")
    assert merged.status == 0, merged.err
    assert reflora("eval", tmp_path / "run").status == 0
