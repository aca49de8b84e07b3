"""Base models of other kinds through the whole command line: fresh poolers, half precision, regression."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer, DebertaV2Model, GPT2ForSequenceClassification, PreTrainedModel

from reflora_cli.ground.errors import InputError
from reflora_cli.model.classifier import load_classifier
from reflora_cli.model.sources import find_source
from reflora_cli.recipe.sections import ModelSection
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.registry import find_task
from tests.cli.conftest import FEW, RECIPE, Reflora
from tests.models import make

SHORT = ("train.epochs=1", "eval.at_start=false", "task.max_train_rows=200", "task.max_eval_rows=60")


def saved(model: PreTrainedModel, directory: Path) -> Path:
    """A local checkpoint with the tiny model's tokenizer."""
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(find_source("builtin:tiny-llama", None).location).save_pretrained(directory)
    return directory


@pytest.fixture
def deberta(tmp_path: Path) -> Path:
    """A DeBERTa checkpoint as the hub has it: the body only, neither pooler nor classifier."""
    config = make("deberta").config
    config.vocab_size, config.max_position_embeddings = 1500, 64
    torch.manual_seed(0)
    return saved(DebertaV2Model(config), tmp_path / "deberta")


@pytest.mark.parametrize("modules", ["auto", "[classifier]"])
def test_fresh_pooler_travels_with_the_adapter_trained_or_not(
    modules: str, deberta: Path, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """Where the reference leaves the random pooler out, a reload draws another one and the scores change."""
    run = tmp_path / "run"
    model = (f"model.name={deberta}", f"method.trainable_modules={modules}", "model.classifier_dropout=0.15")
    outcome = reflora("train", recipe, *model, *SHORT, "--output", run, "--json")
    assert outcome.status == 0, outcome.err
    tensors = load_file(run / "adapter" / "adapter_model.safetensors")
    assert {"base_model.model.pooler.dense.weight", "base_model.model.classifier.weight"} <= set(tensors)
    trained = json.loads((run / "results.json").read_text())["trained_parameters"]
    with_pooler = 16 * 16 + 16 if modules == "auto" else 0
    factors = sum(tensor.numel() for key, tensor in tensors.items() if "lora" in key)
    assert trained == factors + 2 * 16 + 2 + with_pooler
    again = reflora("eval", run, "--json")
    assert again.json["scores"] == outcome.json["scores"]


def test_head_dropout_is_set_where_the_configuration_does_not_list_it(deberta: Path) -> None:
    """DeBERTa reads `cls_dropout`, which its configuration class does not declare."""
    task = find_task("glue/cola")
    assert isinstance(task, SequenceTask)
    base = load_classifier(
        ModelSection(name=str(deberta), classifier_dropout=0.15), None, task, dtype=torch.float32, seed=0
    )
    assert base.model.dropout.p == 0.15
    assert base.fresh == ("classifier", "pooler.dense")
    assert base.head == ("pooler", "classifier")


def test_head_for_another_number_of_labels_is_drawn_anew_and_other_misfits_are_refused(tmp_path: Path) -> None:
    model, task = make("bert"), find_task("glue/cola")
    model.resize_token_embeddings(1500)
    base = saved(model, tmp_path / "bert")
    assert isinstance(task, SequenceTask)
    section = ModelSection(name=str(base))
    loaded = load_classifier(section, None, task, dtype=torch.float32, seed=0)
    assert loaded.fresh == ("classifier",)
    assert loaded.model.classifier.weight.shape == (2, 16)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(InputError, match="do not fit its architecture"):
        load_classifier(section, None, task, dtype=torch.float32, seed=0)
    (base / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**9}))
    with pytest.raises(InputError, match="impossible number of layers"):
        load_classifier(section, None, task, dtype=torch.float32, seed=0)


def test_transposed_layers_train_and_merge(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    config = make("gpt2").config
    config.vocab_size, config.n_positions, config.eos_token_id, config.bos_token_id = 1500, 64, 2, 1
    base = saved(GPT2ForSequenceClassification(config), tmp_path / "gpt2")
    run = tmp_path / "run"
    arguments = (f"model.name={base}", "method.name=dora", "method.update=reflora-s")
    assert reflora("train", recipe, *arguments, *SHORT, "--output", run).status == 0
    outcome = reflora("merge", run, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["largest_difference"] <= 1e-4


def test_bfloat16_base_trains_and_merges(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = reflora("train", recipe, "model.dtype=bfloat16", *FEW, "eval.at_start=false", "--output", run, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["dtype"] == "bfloat16"
    tensors = load_file(run / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    merged = reflora("merge", run, "--json")
    assert merged.status == 0, merged.err
    assert merged.json["dtype"] == "bfloat16"


def test_gradient_checkpointing_changes_nothing_but_memory(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    losses = []
    for setting in ("false", "true"):
        arguments = (f"train.gradient_checkpointing={setting}", *SHORT, "--output", tmp_path / setting, "--json")
        losses.append(reflora("train", recipe, *arguments).json["scores"]["validation"]["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_regression_reports_correlations(small_glue: Path, reflora: Reflora, tmp_path: Path) -> None:
    recipe = tmp_path / "stsb.yaml"
    values = RECIPE | {"task": {"name": "glue/stsb", "data": str(small_glue), "max_length": 48}}
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    outcome = reflora("train", recipe, *SHORT, "method.name=lora", "--output", tmp_path / "run", "--json")
    assert outcome.status == 0, outcome.err
    scores = outcome.json["scores"]["validation"]
    assert set(scores) == {"pearson", "spearman", "loss"}
    assert outcome.json["main_metric"] == "pearson"
    assert reflora("merge", tmp_path / "run").status == 0


def test_two_evaluation_splits_are_both_scored(small_glue: Path, reflora: Reflora, tmp_path: Path) -> None:
    recipe = tmp_path / "mnli.yaml"
    values = RECIPE | {"task": {"name": "glue/mnli", "data": str(small_glue), "max_length": 48}}
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    outcome = reflora("train", recipe, *SHORT, "method.name=lora", "--output", tmp_path / "run", "--json")
    assert outcome.status == 0, outcome.err
    assert list(outcome.json["scores"]) == ["validation_matched", "validation_mismatched"]


def test_interrupt_exits_with_130(
    recipe: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reflora_cli.training.step.accumulate", interrupt)
    outcome = reflora("train", recipe, "eval.at_start=false", "--output", tmp_path / "run")
    assert outcome.status == 130
    assert "Traceback" not in outcome.err


def test_a_fault_of_ours_exits_with_1_and_shows_where(
    recipe: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("reflora_cli.training.step.accumulate", fail)
    outcome = reflora("train", recipe, "eval.at_start=false", "--output", tmp_path / "run")
    assert outcome.status == 1
    assert "ZeroDivisionError" in outcome.err
