"""Classifiers that say what their outputs mean, in an order of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from reflora_cli.model.classifier import load_classifier
from reflora_cli.recipe.sections import ModelSection
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.registry import find_task
from tests.cli.conftest import Reflora
from tests.cli.test_models import saved
from tests.models import make

OTHER = ("CONTRADICTION", "NEUTRAL", "ENTAILMENT")
BACKWARDS = [2, 1, 0]
STEPS = ("train.steps=3", "train.batch_size=16", "train.learning_rate=1e-2", "eval.every=3")


@pytest.fixture(scope="module")
def mnli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for MNLI on a few rows whose texts tell their labels."""
    place = tmp_path_factory.mktemp("mnli")
    words = ("cup", "box", "ball")
    for split in ("train", "validation_matched", "validation_mismatched"):
        rows = [
            {"premise": f"the {words[i % 3]} is small", "hypothesis": "it is", "label": i % 3 if i % 4 else (i + 1) % 3}
            for i in range(48 if split == "train" else 24)
        ]
        (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values: dict[str, Any] = {
        "method": {"name": "lora", "rank": 2},
        "model": {"name": "x", "dtype": "float32"},
        "task": {"name": "glue/mnli", "data": str(place), "max_length": 32},
        "train": {"epochs": 1},
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return place / "recipe.yaml"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One classifier twice: without names in the task's order, and with the rows of its head and names turned round."""
    place = tmp_path_factory.mktemp("bases")
    model = make("bert")
    model.resize_token_embeddings(1500)
    first = saved(model, place / "first")
    second = shutil.copytree(first, place / "second")
    tensors = load_file(first / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name][BACKWARDS]
    save_file(tensors, second / "model.safetensors", metadata={"format": "pt"})
    rename(second, OTHER)
    return first, second


def rename(base: Path, names: tuple[str, ...]) -> None:
    config = json.loads((base / "config.json").read_text())
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: index for index, name in enumerate(names)}
    (base / "config.json").write_text(json.dumps(config))


def test_the_same_classifier_has_the_same_scores(bases: tuple[Path, Path], mnli: Path, reflora: Reflora) -> None:
    first, second = (reflora("eval", mnli, f"model.name={base}", "--json").json["scores"] for base in bases)
    for split, scores in first.items():
        assert second[split] == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize("whole", ["auto", "[]"])
def test_training_merging_and_exports_keep_the_base_s_order(
    whole: str, bases: tuple[Path, Path], mnli: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """With the head trained and without, the runs are one but for the order of their outputs, and all files tell it."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    results, logits = [], []
    ids = torch.arange(3, 9)[None]
    for base in bases:
        run = tmp_path / base.name
        arguments = (f"model.name={base}", f"method.trainable_modules={whole}", *STEPS)
        outcome = reflora("train", mnli, *arguments, "--output", run, "--json")
        assert outcome.status == 0, outcome.err
        assert reflora("eval", run, "--json").json["scores"] == outcome.json["scores"]
        assert reflora("merge", run).status == 0
        assert reflora("export", run, "--format", "onnx").status == 0
        results.append(outcome.json["scores"]["validation_matched"])
        model = AutoModelForSequenceClassification.from_pretrained(run / "merged")
        names = list(model.config.id2label.values())
        facts = onnxruntime.InferenceSession(str(run / "export-onnx" / "model.onnx")).get_modelmeta()
        assert json.loads(facts.custom_metadata_map["labels"]) == names
        assert json.loads((run / "adapter" / "reflora.json").read_text())["label_names"] == names
        logits.append((names, model(input_ids=ids).logits))
    assert results[0] == pytest.approx(results[1], abs=1e-5)
    (names, ours), (turned, theirs) = logits
    assert turned == names[::-1] == ["contradiction", "neutral", "entailment"]
    torch.testing.assert_close(theirs[:, BACKWARDS], ours, atol=1e-5, rtol=1e-5)


def test_adapter_that_says_what_its_outputs_mean_is_believed(
    bases: tuple[Path, Path], mnli: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """Runs of before wrote the task's order, which is that of their heads, whatever the base says."""
    first = bases[0]
    run = tmp_path / "run"
    assert reflora("train", mnli, f"model.name={first}", *STEPS, "--output", run).status == 0
    scores = reflora("eval", run, "--json").json["scores"]
    mislabelled = shutil.copytree(first, tmp_path / "base")
    rename(mislabelled, OTHER)
    again = reflora("eval", run, f"model.name={mislabelled}", "--json")
    assert again.json["scores"] == scores
    record = run / "adapter" / "reflora.json"
    said = json.loads(record.read_text())
    record.write_text(json.dumps(said | {"label_names": ["good", "bad", "ugly"]}))
    outcome = reflora("eval", run)
    assert (outcome.status, "good, bad, ugly" in outcome.err) == (2, True)


def test_head_of_other_labels_is_refused(
    bases: tuple[Path, Path], mnli: Path, reflora: Reflora, tmp_path: Path
) -> None:
    base = shutil.copytree(bases[0], tmp_path / "base")
    rename(base, ("joy", "anger", "fear"))
    for command in (("eval", mnli), ("train", mnli, "--output", tmp_path / "run")):
        outcome = reflora(*command, f"model.name={base}")
        assert outcome.status == 2
        assert "joy, anger, fear" in outcome.err
        assert "contradiction" in outcome.err
    cola = find_task("glue/cola")
    assert isinstance(cola, SequenceTask)
    loaded = load_classifier(ModelSection(name=str(base)), None, cola, dtype=torch.float32, seed=0)
    assert (loaded.fresh, loaded.labels, loaded.foreign_labels) == (("classifier",), cola.label_names, ())
