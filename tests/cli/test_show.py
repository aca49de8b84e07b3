"""`reflora show` tells of all methods, and of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reflora_cli.methods import measured
from reflora_cli.methods.describe import CHOICES
from reflora_cli.methods.presets import PRESETS
from reflora_cli.methods.settings import Optimizer
from reflora_cli.recipe.annotated import annotated
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.keys import Key, recipe_keys
from reflora_cli.recipe.library import bundled_recipes
from reflora_cli.recipe.sections import TrainSection
from tests.cli.conftest import Reflora


def test_the_table_has_a_row_for_every_preset(reflora: Reflora) -> None:
    outcome = reflora("show", "methods", "--base", "builtin:tiny-llama", "--rank", 4, "--json")
    assert outcome.status == 0, outcome.err
    rows = {row["preset"]: row for row in outcome.json["methods"]}
    assert list(rows) == list(PRESETS)
    assert rows["lora"]["parameters"] == 48_640
    assert rows["bitfit"]["parameters"] is None
    assert rows["pissa"]["start"] == "pissa"
    assert all(name in outcome.err for name in PRESETS)


def test_costs_are_columns_where_they_were_measured(
    reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "FILE", tmp_path / "measured.json")
    without = reflora("show", "methods", "--base", "builtin:tiny-llama", "--json").json
    assert "time" not in without["methods"][0]
    found = {"setting": "three steps somewhere", "costs": {"dora": {"time": 1.25, "memory": 1.0625}}}
    (tmp_path / "measured.json").write_text(json.dumps(found), encoding="utf-8")
    outcome = reflora("show", "methods", "--base", "builtin:tiny-llama", "--json")
    rows = {row["preset"]: row for row in outcome.json["methods"]}
    assert (rows["dora"]["time"], rows["dora"]["memory"], rows["lora"]["time"]) == (1.25, 1.0625, None)
    assert "three steps somewhere" in outcome.err


def test_one_method_with_formula_fields_and_refusals(reflora: Reflora) -> None:
    outcome = reflora("show", "lora-pro", "--json")
    assert outcome.status == 0, outcome.err
    text = " ".join(outcome.err.split())
    for part in ("Wang et al. 2024", "W + s B A", "moments = factors", "damping = auto", "layer vera"):
        assert part in text
    assert outcome.json["refusals"]["layer vera"] == (
        "method.update=lora-pro is for pairs A, B, and method.layer=vera trains none"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("pisa",), "did you mean 'pissa'"),
        (("lora", "--rank", 4), "are only for the table of all methods"),
        (("lora", "--base", "builtin:tiny-llama"), "are only for the table of all methods"),
        (("methods", "--base", "nobody/nothing"), "nobody/nothing"),
    ],
)
def test_wrong_input_is_refused(arguments: tuple[object, ...], expected: str, reflora: Reflora) -> None:
    outcome = reflora("show", *arguments)
    assert outcome.status == 2
    assert expected in " ".join(outcome.err.split())


@pytest.mark.parametrize("name", sorted(bundled_recipes()))
def test_a_recipe_in_full_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    own = annotated(name)
    copy = tmp_path / "copy.yaml"
    copy.write_text(own.text, encoding="utf-8")
    assert load_recipe(str(copy)) == load_recipe(name)
    assert set(own.origins) >= {"model.name", "train.seed", "method.update.kind"}


def test_a_recipe_says_what_keys_mean_and_where_they_were_set(reflora: Reflora) -> None:
    outcome = reflora("show", "glue/cola", "train.seed=3")
    assert outcome.status == 0, outcome.err
    lines = [line.strip() for line in outcome.out.splitlines()]
    for line in (
        "name: microsoft/deberta-v3-base  # base/glue.yaml, line 3",
        "max_length: 64  # glue/cola.yaml, line 9",
        "warmup_steps: 100  # base/glue.yaml, line 14",
        "seed: 3  # override train.seed=3",
        "log_every: 10  # default",
        "kind: reflora  # the preset",
    ):
        assert line in lines
    assert "# the peak learning rate, after the warm-up" in lines
    assert "it is a task too: --as task" in outcome.err


def test_a_copy_is_written_once(reflora: Reflora, tmp_path: Path) -> None:
    place = tmp_path / "mine.yaml"
    outcome = reflora("show", "quickstart", "--copy", place)
    assert (outcome.status, outcome.out) == (0, "")
    assert load_recipe(str(place)) == load_recipe("quickstart")
    before = place.read_bytes()
    again = reflora("show", "glue/cola", "--copy", place)
    assert (again.status, place.read_bytes()) == (2, before)
    assert "the file already exists" in again.err
    assert reflora("show", "lora", "--copy", tmp_path / "lora.yaml").status == 2
    assert not (tmp_path / "lora.yaml").exists()


def test_a_task_tells_columns_labels_and_scores(reflora: Reflora) -> None:
    mnli = reflora("show", "glue/mnli", "--as", "task", "--json").json
    assert mnli["columns"] == ["premise", "hypothesis", "label"]
    assert mnli["labels"] == ["entailment", "neutral", "contradiction"]
    assert (mnli["metrics"], mnli["source"]) == (["accuracy"], "hub:nyu-mll/glue/mnli")


def test_a_prompt_task_shows_a_prompt(reflora: Reflora) -> None:
    outcome = reflora("show", "instruct", "--json")
    prompt, answer = outcome.json["example"]
    assert prompt.startswith("Below is an instruction")
    assert prompt.endswith("### Response:\n")
    assert f"[[{answer}]]" in outcome.err


@pytest.mark.parametrize("key", recipe_keys(), ids=lambda key: key.path)
def test_every_key_of_a_recipe_has_a_meaning(key: Key) -> None:
    assert key.meaning
    assert key.expected
    assert key.default


def test_the_fields_of_every_choice_are_keys() -> None:
    known = {key.path: key for key in recipe_keys()}
    for axis, records in CHOICES.items():
        assert known[f"method.{axis}"].values == tuple(records)
        for kind, record in records.items():
            for name, field in record.model_fields.items():
                assert field.description
                if name != "kind":
                    assert kind in known[f"method.{axis}.{name}"].kinds


def test_a_key_tells_type_default_and_choices(reflora: Reflora) -> None:
    rate = reflora("show", "train.learning_rate", "--json").json
    assert (rate["default"], rate["expected"]) == ("0.001", "a number > 0 and <= 1e+30")
    optimizer = reflora("show", "train.optimizer", "--json").json
    assert optimizer["values"] == [own.value for own in Optimizer]
    assert reflora("show", "train.compile", "--json").json["values"][:3] == ["true", "false", "default"]
    section = reflora("show", "train", "--json").json
    assert [key["path"] for key in section["keys"]] == [f"train.{name}" for name in TrainSection.model_fields]
    warmup = reflora("show", "method.update.warmup_steps", "--json").json
    assert "reflora" in warmup["kinds"]
    assert "plain" not in warmup["kinds"]


def test_formats_and_bases_are_told_of(reflora: Reflora) -> None:
    assert "onnxruntime" in reflora("show", "onnx", "--json").json["needs"]
    assert reflora("show", "builtin:tiny-llama", "--json").json["is_builtin"]


def test_the_sort_can_be_chosen(reflora: Reflora) -> None:
    assert reflora("show", "glue/cola", "--as", "recipe", "--json").json["recipe"]["task"]["name"] == "glue/cola"
    wrong = reflora("show", "glue/cola", "--as", "method")
    assert wrong.status == 2
    assert "it is a recipe and a task" in " ".join(wrong.err.split())


def test_the_last_word_of_a_name_finds_it(reflora: Reflora) -> None:
    outcome = reflora("show", "cola")
    assert outcome.status == 2
    assert "did you mean 'glue/cola'" in " ".join(outcome.err.split())


def test_a_missing_file_is_not_taken_for_a_slip_of_the_pen(reflora: Reflora) -> None:
    outcome = reflora("show", "nowhere.yaml")
    assert outcome.status == 2
    assert "there is no such file" in outcome.err
