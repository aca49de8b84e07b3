"""Wrong inputs to language models: exit status 2, one message that says what and where, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import LlamaModel

from reflora_cli.model.sources import find_source
from tests.architectures import DECODERS
from tests.cli.conftest import Outcome, Reflora
from tests.language_models import tokenizer

RECIPE: dict[str, Any] = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
    "method": {"name": "lora", "rank": 4},
    "task": {"name": "commonsense/boolq", "max_length": 256},
    "train": {"steps": 2, "batch_size": 4},
    "eval": {"protocol": "choices"},
}
ROW = {
    "instruction": "Is it?\n\nAnswer format: true/false",
    "input": "",
    "output": "the correct answer is true",
    "answer": "true",
}


@dataclass(frozen=True)
class Place:
    """A scratch directory with a recipe, good data, a finished sequence-level run, and a way to run commands."""

    path: Path
    recipe: Path
    run: Path
    reflora: Reflora

    def train(self, *arguments: object) -> Outcome:
        data = f"task.data={self.path / 'data'}"
        return self.reflora("train", self.recipe, data, *arguments, "--output", self.path / "new")

    def with_rows(self, rows: list[Any], *arguments: object) -> Outcome:
        (self.path / "data" / "train.json").write_text(json.dumps(rows), encoding="utf-8")
        return self.train(*arguments)


def without_end(place: Place) -> Outcome:
    base = shutil.copytree(find_source("builtin:tiny-llama", None).location, place.path / "base")
    for name in ("tokenizer_config.json", "tokenizer.json"):
        text = (base / name).read_text(encoding="utf-8").replace('"eos_token": "<eos>"', '"eos_token": null')
        (base / name).write_text(text, encoding="utf-8")
    return place.train(f"model.name={base}")


def without_head(place: Place) -> Outcome:
    """The body alone, of an architecture that does not tie its head."""
    LlamaModel(DECODERS["llama"].config()).save_pretrained(place.path / "base")
    tokenizer().save_pretrained(place.path / "base")
    return place.train(f"model.name={place.path / 'base'}")


def few_embeddings(place: Place) -> Outcome:
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(DECODERS["llama-tied"].config(vocab_size=900)).save_pretrained(place.path / "base")
    tokenizer().save_pretrained(place.path / "base")
    return place.train(f"model.name={place.path / 'base'}")


def one_file(place: Place) -> Outcome:
    return place.train(f"task.data={place.path / 'data' / 'train.json'}")


def learned_file(place: Place) -> Outcome:
    """Without rows held out, the file that was trained on is no test, whatever split is asked for."""
    settings = (f"task.data={place.path / 'data' / 'train.json'}", "eval.every=never", "eval.select=last")
    done = place.reflora("train", place.recipe, *settings, "--output", place.path / "done")
    assert done.status == 0, done.err
    assert place.reflora("eval", place.path / "done", "--split", "train").status == 0
    return place.reflora("eval", place.path / "done", "--split", "test")


def learned_file_with_labels(place: Place) -> Outcome:
    rows = [{"sentence1": "a cup", "sentence2": "a box", "label": index % 2} for index in range(40)]
    file = place.path / "rows.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    settings = (f"task.data={file}", "task.name=glue/rte", "task.max_length=16", "eval.every=never", "eval.select=last")
    settings = (*settings, "eval.protocol=llm-adapters")
    done = place.reflora("train", place.recipe, *settings, "--output", place.path / "done")
    assert done.status == 0, done.err
    return place.reflora("eval", place.path / "done")


def one_file_for_a_mixture(place: Place) -> Outcome:
    settings = ("task.name=commonsense", f"task.data={place.path / 'data' / 'train.json'}")
    return place.reflora("eval", "quickstart-commonsense", *settings, "--output", place.path / "new")


CASES: dict[str, tuple[Callable[[Place], Outcome], tuple[str, ...]]] = {
    "missing field": (lambda p: p.with_rows([{"instruction": "a", "answer": "true"}]), ("'output'", "train.json")),
    "field missing in one row": (
        lambda p: p.with_rows([ROW, {**ROW, "output": None}]),
        ("row 2", "'output' is missing"),
    ),
    "answer that is no candidate": (
        lambda p: p.with_rows([ROW, {**ROW, "answer": "yes"}]),
        ("row 2", "'yes'", "true, false"),
    ),
    "empty file": (lambda p: p.with_rows([]), ("no rows", "train.json")),
    "broken file": (lambda p: p.with_rows([ROW, [1]]), ("row 2", "not an object")),
    "prompts longer than max_length": (lambda p: p.train("task.max_length=20"), ("task.max_length", "no room")),
    "length beyond the model": (lambda p: p.train("task.max_length=300"), ("task.max_length", "256")),
    "tokenizer without an end": (without_end, ("end-of-sequence", "eos_token")),
    "base without a head": (without_head, ("lm_head.weight", "random")),
    "more tokens than embeddings": (few_embeddings, ("1500 tokens", "900")),
    "own data without any": (
        lambda p: p.reflora("train", p.recipe, "task.name=instruct", "--output", p.path / "new"),
        ("task.data", "your own data"),
    ),
    "one file for training and scoring": (one_file, ("train.json", "validation_rows")),
    "all rows held out": (lambda p: p.train("task.validation_rows=40"), ("task.validation_rows", "40 of 40")),
    "scored on what was learned": (learned_file, ("task.data", "train.json", "--split train")),
    "labels scored on what was learned": (learned_file_with_labels, ("task.data", "rows.json", "--split train")),
    "one file for the tests of a mixture": (one_file_for_a_mixture, ("train.json", "a folder for each task")),
    "unknown protocol": (lambda p: p.train("eval.protocol=choice"), ("eval.protocol", "choices")),
    "no room for a prompt": (
        lambda p: p.train("eval.protocol=llm-adapters", "eval.max_new_tokens=256"),
        ("eval.max_new_tokens",),
    ),
    "classifier dropout": (lambda p: p.train("model.classifier_dropout=0.1"), ("model.classifier_dropout",)),
    "unknown task in a list": (lambda p: p.train("task.name=[commonsense/bolq]"), ("bolq", "commonsense/boolq")),
    "a list of unlike tasks": (lambda p: p.train("task.name=[commonsense/boolq, glue/cola]"), ("glue/cola", "mixed")),
    "an empty list of tasks": (lambda p: p.train("task.name=[]"), ("task.name",)),
    "prompt settings of a labelled task": (
        lambda p: p.reflora("train", "quickstart", "task.train_on_prompt=true", "--output", p.path / "new"),
        ("task.train_on_prompt", "builtin/entailment"),
    ),
    "cache of a labelled task": (
        lambda p: p.reflora("train", "quickstart", "eval.cache=static", "--output", p.path / "new"),
        ("eval.cache", "builtin/entailment"),
    ),
    "protocol of a labelled task": (
        lambda p: p.reflora("eval", p.run, "--protocol", "choices"),
        ("--protocol",),
    ),
    "adapter of a classifier": (
        lambda p: p.reflora("eval", p.run, "--task", "builtin/questions", "--output", p.path / "new"),
        ("adapter",),
    ),
    "unknown split": (
        lambda p: p.reflora("eval", "quickstart-commonsense", "--split", "tset", "--output", p.path / "new"),
        ("tset", "train"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_one_clear_message(
    case: str, trained: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        (tmp_path / "data" / f"{split}.json").write_text(json.dumps([ROW] * 40), encoding="utf-8")
    act, expected = CASES[case]
    kept = {path.relative_to(trained) for path in trained.rglob("*")}

    outcome = act(Place(tmp_path, recipe, trained, reflora))

    assert outcome.status == 2, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    assert not [word for word in expected if word not in outcome.err], outcome.err
    assert outcome.out == ""
    assert not (tmp_path / "new").exists()
    assert {path.relative_to(trained) for path in trained.rglob("*")} == kept


def test_the_good_recipe_is_good(trained: Path, reflora: Reflora, tmp_path: Path) -> None:
    """What the cases change is right before they change it."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    (tmp_path / "data").mkdir()
    place = Place(tmp_path, recipe, trained, reflora)
    (tmp_path / "data" / "test.json").write_text(json.dumps([ROW] * 40), encoding="utf-8")
    outcome = place.with_rows([ROW] * 40)
    assert outcome.status == 0, outcome.err
