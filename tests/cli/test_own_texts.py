"""Texts of the user's own from one file: trained, held out, scored, asked, merged; and what is refused of them."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Outcome, Reflora, records
from tests.cli.test_generation import bleu_of_command, lines

THINGS, PLACES = ("cup", "ball", "box", "hat", "key", "ring"), ("kitchen", "garden", "hall", "garage", "attic")
WORDING = "Said of a {thing}, with place {place}:"
TASK = {"kind": "generation", "wording": WORDING, "label": "said", "validation": "20%", "max_length": 64}
SEARCH = {"at_start": True, "every": "12 steps", "max_new_tokens": 16}


def texts_of(thing: str, place: str) -> tuple[str, str]:
    return f"the {thing} is in the {place} .", f"in the {place} there is a {thing} ."


def rows() -> list[dict[str, str]]:
    """Two rows for each input: with one text each."""
    every = [(thing, place) for thing in THINGS for place in PLACES]
    return [{"thing": own[0], "place": own[1], "said": text} for own in every for text in texts_of(*own)]


def write_recipe(folder: Path, task: dict[str, Any], **train: Any) -> Path:
    recipe = {
        "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
        "method": {"name": "lora", "rank": 8, "alpha": 16, "targets": "all-linear"},
        "task": task,
        "train": {"epochs": 12, "batch_size": 8, "learning_rate": 5e-3, "checkpoint_every": 6, **train},
        "eval": SEARCH,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return folder / "recipe.yaml"


@dataclass(frozen=True)
class Own:
    """A finished run on one file, and the recipe as the user wrote it."""

    recipe: Path
    run: Path
    data: Path


@pytest.fixture(scope="module")
def own(reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Own:
    place = tmp_path_factory.mktemp("texts")
    with (place / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows()[0])
        writer.writeheader()
        writer.writerows(rows())
    recipe = write_recipe(place, {**TASK, "data": str(place / "rows.csv")})
    outcome = reflora("train", recipe, "--output", place / "run")
    assert outcome.status == 0, outcome.err
    assert "rows.csv: cells separated by commas" in outcome.err
    return Own(recipe, place / "run", place / "rows.csv")


def scored(outcome: Outcome, name: str = "generation") -> list[dict[str, Any]]:
    """The predictions of an evaluation, in the order of the rows."""
    assert outcome.status == 0, outcome.err
    written = lines(Path(outcome.json["directory"]) / f"predictions-{name}.jsonl")
    return sorted(written, key=lambda line: int(line["id"]))


def test_one_file_is_learned_and_its_held_out_inputs_are_scored_by_sacrebleu(
    own: Own, reflora: Reflora, tmp_path: Path
) -> None:
    history = [line["bleu"] for line in records(own.run, "evaluation")]
    assert max(history) > history[0] + 20
    outcome = reflora("eval", own.run, "--json")
    written, scores = scored(outcome), outcome.json["tasks"]["validation"]
    assert scores["bleu"] == max(history) == pytest.approx(bleu_of_command(written, tmp_path), abs=1e-8)
    assert len(written) == 6
    known = [texts_of(thing, place) for thing in THINGS for place in PLACES]
    assert all(tuple(line["references"]) in known for line in written)
    outcome = reflora("eval", own.run, "--split", "train", "--json", "--output", tmp_path / "learned")
    learned = scored(outcome, "generation-train")
    assert sorted(tuple(line["references"]) for line in [*written, *learned]) == sorted(known)


def test_the_prompt_is_the_wording(own: Own) -> None:
    example = json.loads((own.run / "probe_rows.jsonl").read_text(encoding="utf-8").splitlines()[0])
    first = example["label"].split()
    expected = WORDING.replace("{thing}", first[1]).replace("{place}", first[5])
    assert (example["prompt"], example["answer"]) == (expected, f" {example['label']}")


def test_new_rows_are_answered_as_in_an_evaluation(own: Own, reflora: Reflora, tmp_path: Path) -> None:
    written = scored(reflora("eval", own.run, "--json"))
    asked = [(line["references"][0].split()[1], line["references"][0].split()[5]) for line in written]
    new = tmp_path / "new.csv"
    new.write_text("thing,place\n" + "".join(f"{thing},{place}\n" for thing, place in asked), encoding="utf-8")
    outcome = reflora("predict", own.run, new, "--json")
    assert outcome.status == 0, outcome.err
    answers = [json.loads(line) for line in outcome.out.splitlines()]
    assert [answer["answer"] for answer in answers] == [line["parsed"] for line in written]
    missing = reflora("predict", own.run, new, "--columns", "thing")
    assert (missing.status, "place" in missing.err) == (2, True)


def test_a_run_is_resumed_on_the_same_rows(own: Own, reflora: Reflora, tmp_path: Path) -> None:
    def stopped(*arguments: object) -> Outcome:
        return reflora("train", own.recipe, "--output", tmp_path / "run", *arguments)

    assert stopped("train.epochs=2").status == 0
    changed = stopped("--resume", "task.validation=10%")
    assert (changed.status, "task.validation" in changed.err) == (2, True)
    assert stopped("--resume", "train.epochs=2").status == 0
    kept = (tmp_path / "run" / "probe_rows.jsonl").read_bytes()
    assert kept == (own.run / "probe_rows.jsonl").read_bytes()
    other = reflora("train", own.recipe, "train.seed=5", "train.epochs=1", "--output", tmp_path / "other")
    assert other.status == 0, other.err
    assert (tmp_path / "other" / "probe_rows.jsonl").read_bytes() == kept


def test_a_merged_model_and_a_moved_file_have_the_same_scores(own: Own, reflora: Reflora, tmp_path: Path) -> None:
    whole = reflora("eval", own.run, "--json").json["tasks"]["validation"]
    (tmp_path / "moved.csv").write_bytes(own.data.read_bytes())
    moved = reflora("eval", own.run, f"task.data={tmp_path / 'moved.csv'}", "--output", tmp_path / "moved", "--json")
    assert moved.json["tasks"]["validation"] == {**whole, "seconds": moved.json["tasks"]["validation"]["seconds"]}
    assert reflora("merge", own.run, "--output", tmp_path / "merged").status == 0
    source = (own.run / "recipe.yaml", f"model.name={tmp_path / 'merged'}")
    merged = reflora("eval", *source, "--output", tmp_path / "scores", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["tasks"]["validation"]["bleu"] == pytest.approx(whole["bleu"], abs=1e-6)


def test_rows_of_another_file_are_all_scored_and_those_of_training_refused(
    own: Own, reflora: Reflora, tmp_path: Path
) -> None:
    new = [{"thing": "lamp", "place": place, "said": list(texts_of("lamp", place))} for place in PLACES]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in new), encoding="utf-8")
    outcome = reflora("eval", own.run, f"task.data={tmp_path / 'new.jsonl'}", "--json", "--output", tmp_path / "new")
    assert [tuple(line["references"]) for line in scored(outcome)] == [texts_of("lamp", place) for place in PLACES]
    learned = reflora("eval", own.run, "task.validation=null")
    assert (learned.status, "trained on these rows" in learned.err) == (2, True)
    named = reflora("eval", own.run, "--task", "nlg/e2e")
    assert (named.status, "task of your own" in named.err) == (2, True)


def test_the_best_adapter_is_kept_by_the_metric_that_is_asked_for(own: Own, reflora: Reflora, tmp_path: Path) -> None:
    options = ("task.metric=rougeL", "train.epochs=2", "--output", tmp_path / "run")
    outcome = reflora("train", own.recipe, *options, "--json")
    assert outcome.status == 0, outcome.err
    scores = outcome.json["scores"]["validation"]
    assert next(iter(scores)) == "rougeL"
    assert scores["rougeL"] == max(line["rougeL"] for line in records(tmp_path / "run", "evaluation"))


GOOD = [{"text": f"cup {i}", "label": f"a red cup {i}"} for i in range(20)]


def changed(**cells: Any) -> list[dict[str, Any]]:
    return [*GOOD[:6], {**GOOD[6], **cells}, *GOOD[7:]]


WRONG: dict[str, tuple[list[dict[str, Any]], dict[str, Any], tuple[str, ...]]] = {
    "wording without a column": (GOOD, {"wording": "Say it:"}, ("task.wording", "names no column")),
    "brace that is not closed": (GOOD, {"wording": "{text} {now:"}, ("task.wording", "'{now:'", "{{ and }}")),
    "column of the wording that is not there": (
        GOOD,
        {"wording": "{txt}:"},
        ("column 'txt' is missing", "mean 'text'? Write {text} in task.wording"),
    ),
    "column of the text that is not there": (GOOD, {"text": "tex"}, ("'tex' is missing", "Set task.text")),
    "column of the label that is not there": (GOOD, {"label": "lable"}, ("'lable' is missing", "Set task.label")),
    "text and wording that differ": (
        GOOD,
        {"text": "a", "wording": "{text}"},
        ("task.text names a, and task.wording has text",),
    ),
    "two texts without a wording": (GOOD, {"text": ["text", "b"]}, ("names 2 columns", "set task.wording")),
    "wording of another kind": (
        GOOD,
        {"kind": "regression", "wording": "{text}"},
        ("task.wording is not for task.kind=regression",),
    ),
    "labels": (GOOD, {"labels": ["a"]}, ("task.labels is not for task.kind=generation",)),
    "two ways to hold out": (
        GOOD,
        {"validation_rows": 4},
        ("task.validation_rows is not for task.kind=generation", "set task.validation instead"),
    ),
    "metric of labels": (GOOD, {"metric": "blue"}, ("task.metric", "did you mean 'bleu'?")),
    "one file trained on and scored": (
        GOOD,
        {"validation": None},
        ("cannot be used for training and scoring", "task.validation=10%"),
    ),
    "too many held out": (GOOD, {"validation": 20}, ("too many rows would be held out", "at most 19: a row stays")),
    "missing text": (changed(text=None), {}, ("'text' is missing", "row 7")),
    "missing answer": (changed(label=""), {}, ("'label' is missing", "row 7")),
    "empty list of answers": (changed(label=[]), {}, ("'label' is missing", "row 7")),
    "number among answers": (changed(label=["a", 3]), {}, ("'label' holds something that is not a text", "row 7")),
    "number for an answer": (changed(label=3), {}, ("'label' is not a text", "row 7")),
    "column in two places": (GOOD, {"wording": "{label}: {text}"}, ("column 'label' is named twice",)),
    "no name of the hub": (GOOD, {"data": "hub:a/b/c/d"}, ("no name of a hub data set", "hub:OWNER/NAME/CONFIG")),
    "data set out of reach": (GOOD, {"data": "hub:nobody/no-rows"}, ("cannot be loaded from the hub", "no-rows")),
    "no data": (GOOD, {"data": "hub"}, ("needs your own data", "hub:OWNER/NAME")),
    "no protocol of choices": (GOOD, {"eval": "choices"}, ("has no candidate answers to compare", "eval.protocol")),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(case: str, reflora: Reflora, tmp_path: Path) -> None:
    own, task, words = WRONG[case]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")
    protocol = [f"eval.protocol={task['eval']}"] if "eval" in task else []
    described = {key: value for key, value in task.items() if key != "eval"}
    recipe = write_recipe(tmp_path, {"kind": "generation", "validation": 4, "data": str(data), **described})
    outcome = reflora("train", recipe, *protocol, "--output", tmp_path / "run")
    assert outcome.status == 2, outcome.err
    assert not [word for word in words if word not in outcome.err], outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run").exists()
