"""Cards are true: their Python runs and answers as the run does, the hub reads them, and they tell no private path."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from reflora_cli.model.sources import BUILTIN
from tests.cli.conftest import FEW, Reflora
from tests.cli.test_models import saved
from tests.models import make

BASE = str(BUILTIN["tiny-llama"])


def run_card(directory: Path, base: str = BASE) -> dict[str, Any]:
    """Run the card's Python as a reader would, with the places filled in, and return its names."""
    (code,) = re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code.replace("path/to/this/directory", str(directory)).replace("path/to/base", base), names)
    return names


def predicted(reflora: Reflora, run: Path, text: str, *options: object) -> dict[str, Any]:
    outcome = reflora("predict", run, text, *options, "--json")
    assert outcome.status == 0, outcome.err
    return outcome.json


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The row that the cards of `builtin/entailment` ask about."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text(json.dumps({"premise": "This is a text.", "hypothesis": "This is another one."}) + "\n")
    return path


def test_a_classifier_s_cards_answer_as_the_run(trained: Path, rows: Path, reflora: Reflora, tmp_path: Path) -> None:
    """With PEFT, head included, from the run's own adapter and from an export; and merged, with transformers."""
    pytest.importorskip("peft", reason="peft is not installed")
    expected = predicted(reflora, trained, str(rows))
    assert reflora("export", trained, "--format", "peft", "--output", tmp_path / "peft").status == 0
    assert reflora("merge", trained, "--output", tmp_path / "merged").status == 0
    for directory in (trained / "adapter", tmp_path / "peft", tmp_path / "merged"):
        names = run_card(directory)
        assert names["answer"] == expected["label"]
        found = dict(zip(names["labels"], names["logits"].softmax(-1).tolist(), strict=True))
        assert found == pytest.approx(expected["probabilities"], abs=1e-5)


def test_a_language_model_s_cards_answer_as_the_run(answering: Path, reflora: Reflora, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    expected = predicted(reflora, answering, "What is a shelf used for?", "--max-new-tokens", 32)
    assert reflora("merge", answering, "--output", tmp_path / "merged").status == 0
    for directory in (answering / "adapter", tmp_path / "merged"):
        names = run_card(directory)
        assert names["prompt"] == "Question: What is a shelf used for? Answer:"
        assert names["answer"].strip() == expected["answer"].strip()
        assert names["answer"].strip()


@pytest.mark.parametrize("method", ["bitfit", "vera"])
def test_a_card_says_what_peft_reads(method: str, recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """An adapter that is none of PEFT's has no Python for PEFT, and does not claim its library."""
    pytest.importorskip("peft", reason="peft is not installed")
    model = make("bert")
    model.resize_token_embeddings(1500)
    base = saved(model, tmp_path / "base") if method == "bitfit" else "builtin:tiny-llama"
    settings = (f"method.name={method}", f"model.name={base}")
    outcome = reflora("train", recipe, *FEW, *settings, "--output", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    card = ModelCard.load(tmp_path / "run" / "adapter" / "README.md")
    if method == "bitfit":
        assert card.data.library_name == "reflora"
        assert "PEFT does not read this adapter" in card.text
        assert "PeftModel" not in card.text
    else:
        assert card.data.library_name == "peft"
        assert run_card(tmp_path / "run" / "adapter")["answer"] in ("entailment", "not_entailment")


@pytest.fixture(scope="module")
def private(small_glue: Path, tmp_path_factory: pytest.TempPathFactory, reflora: Reflora) -> Path:
    """A run on a base and on data that lie in private places, which its recipe names by absolute paths."""
    place = tmp_path_factory.mktemp("private")
    model = make("bert")
    model.resize_token_embeddings(1500)
    saved(model, place / "base")
    shutil.copytree(small_glue / "mnli", place / "data")
    recipe = {
        "model": {"name": str(place / "base"), "dtype": "float32"},
        "method": {"name": "lora", "rank": 2},
        "task": {"name": "glue/mnli", "data": str(place / "data"), "max_length": 32},
        "train": {"steps": 2, "batch_size": 8},
        "eval": {"every": "never", "select": "last"},
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    outcome = reflora("train", place / "recipe.yaml", "--output", place / "run")
    assert outcome.status == 0, outcome.err
    return place


def test_nothing_that_is_published_tells_a_private_path(private: Path, reflora: Reflora) -> None:
    """Of texts and of binary files; PEFT's entry that names the base is left as PEFT writes it."""
    run = private / "run"
    assert reflora("merge", run).status == 0
    for format in ("peft", "onnx"):
        assert reflora("export", run, "--format", format).status == 0
    places = [run / name for name in ("adapter", "merged", "export-peft", "export-onnx")]
    files = [file for place in places for file in place.rglob("*") if file.is_file() and file.name != "reflora.json"]
    assert {"README.md", "merge.json", "model.onnx", "adapter_config.json"} <= {file.name for file in files}
    for file in files:
        content = file.read_bytes()
        if file.name == "adapter_config.json":
            config = json.loads(content)
            assert config.pop("base_model_name_or_path") == str(private / "base")
            content = json.dumps(config).encode()
        assert str(private).encode() not in content, file
    card = ModelCard.load(run / "adapter" / "README.md")
    assert card.data.base_model is None
    assert "glue/mnli (data)" in card.text
    assert re.search(r"a local directory; its weights have the sha256 [0-9a-f]{64}\.", card.text)
    assert "from_pretrained('path/to/base', num_labels=3)" in card.text


def test_the_hub_reads_what_training_found(trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())["scores"]["validation"]
    card = ModelCard.load(trained / "adapter" / "README.md")
    assert card.data.eval_results is not None
    assert {own.metric_name: own.metric_value for own in card.data.eval_results} == results
    facts = dict(re.findall(r"^\| ([a-z ]+) \| (.*) \|$", card.text, re.MULTILINE))
    expected = {"rank": "4", "alpha": "8", "targets": "all-linear", "learning rate": "0.003", "seed": "0"}
    assert {name: facts[name] for name in expected} == expected
