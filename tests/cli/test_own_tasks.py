"""Tasks of the user's own, from files to merged models, for all kinds; and what is refused of them."""

from __future__ import annotations

import csv
import gzip
import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import yaml
from scipy.stats import pearsonr, spearmanr
from transformers import AutoModelForSequenceClassification

from tests.cli.conftest import Outcome, Reflora, records

WORDS = {"billing": "invoice money refund", "sales": "price offer buy", "tech, other": "crash error screen"}
MODEL = {"name": "builtin:tiny-llama", "dtype": "float32"}
TRAIN = {"epochs": 3, "batch_size": 16, "learning_rate": 5e-3, "checkpoint_every": 6}
KINDS = ("classification", "regression", "multilabel")


def rows_of(kind: str, count: int = 100) -> list[dict[str, Any]]:
    """Rows whose texts tell most of their labels."""
    dice = random.Random(kind)
    rows = []
    for number in range(count):
        own = dice.sample(sorted(WORDS), 1 if kind != "multilabel" else dice.choice((0, 1, 1, 2)))
        words = [dice.choice(WORDS[name].split()) for name in own] or ["hello"]
        text = f"the {' and the '.join(words)} is red"
        label: Any = {
            "classification": own[0] if own else "",
            "regression": round(100.0 + 10 * sorted(WORDS).index(own[0]) + dice.random(), 3) if own else 0,
            "multilabel": "|".join(own),
        }[kind]
        rows.append({"subject": f"number {number}", "body": text, "category": label})
    return rows


def write_csv(path: Path, rows: Sequence[dict[str, Any]], separator: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=separator)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_recipe(folder: Path, **task: Any) -> Path:
    values = {"model": MODEL, "method": {"name": "lora", "rank": 4}, "train": TRAIN}
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(values | {"task": {"max_length": 48, **task}}), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Own:
    """A finished run on a file of its own, and the recipe as the user wrote it."""

    recipe: Path
    run: Path
    data: Path
    outcome: Outcome


@pytest.fixture(scope="module")
def own_runs(reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Own]:
    """A run of each kind, trained once, on one file of which a fifth is held out; not to be changed."""
    found: dict[str, Own] = {}

    def run_of(kind: str) -> Own:
        if kind not in found:
            place = tmp_path_factory.mktemp(kind)
            data = write_csv(place / "rows.csv", rows_of(kind), ";" if kind == "classification" else ",")
            described = {"kind": kind, "data": str(data), "text": ["subject", "body"], "label": "category"}
            recipe = write_recipe(place, **described, validation="20%")
            outcome = reflora("train", recipe, "--output", place / "run", "--json")
            assert outcome.status == 0, outcome.err
            found[kind] = Own(recipe, place / "run", data, outcome)
        return found[kind]

    return run_of


def predictions(directory: Path, split: str = "validation") -> list[dict[str, Any]]:
    lines = (directory / f"predictions-{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def marks(rows: Sequence[dict[str, Any]], key: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([[name in row[key] for name in sorted(WORDS)] for row in rows], dtype=np.int64)


def reference(kind: str, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The scores of written predictions by scikit-learn and scipy."""
    own, found = [row["label"] for row in rows], [row["predicted"] for row in rows]
    if kind == "classification":
        return {
            "accuracy": sklearn.metrics.accuracy_score(own, found),
            "macro_f1": sklearn.metrics.f1_score(own, found, average="macro", zero_division=0),
        }
    if kind == "regression":
        return {
            "pearson": pearsonr(own, found).statistic,
            "spearman": spearmanr(own, found).statistic,
            "mae": sklearn.metrics.mean_absolute_error(own, found),
            "rmse": sklearn.metrics.root_mean_squared_error(own, found),
        }
    own, found = marks(rows, "label"), marks(rows, "predicted")
    return {
        "micro_f1": sklearn.metrics.f1_score(own, found, average="micro", zero_division=0),
        "macro_f1": sklearn.metrics.f1_score(own, found, average="macro", zero_division=0),
        "exact_match": sklearn.metrics.accuracy_score(own, found),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_written_predictions(
    kind: str, own_runs: Callable[[str], Own], reflora: Reflora
) -> None:
    own = own_runs(kind)
    outcome = reflora("eval", own.run, "--json")
    assert outcome.status == 0, outcome.err
    scores = outcome.json["scores"]["validation"]
    written = predictions(Path(outcome.json["directory"]))
    assert len(written) == outcome.json["rows"]["validation"] == 20
    assert {key: value for key, value in scores.items() if key != "loss"} == pytest.approx(reference(kind, written))
    assert scores == own.outcome.json["scores"]["validation"]
    results = json.loads((own.run / "results.json").read_text(encoding="utf-8"))
    assert results.get("report") == outcome.json.get("report")
    of_row = {row["subject"]: row["category"] for row in rows_of(kind)}
    kept = (json.loads(line) for line in (own.run / "probe_rows.jsonl").read_text(encoding="utf-8").splitlines())
    for line, example in zip(written, kept, strict=True):
        label = of_row[example["texts"][0]]
        if kind == "regression":
            assert line["label"] == pytest.approx(label)
        else:
            assert line["label"] == (sorted(filter(None, label.split("|"))) if kind == "multilabel" else label)


@pytest.mark.parametrize("kind", KINDS)
def test_new_rows_are_answered_as_in_an_evaluation(
    kind: str, own_runs: Callable[[str], Own], reflora: Reflora, tmp_path: Path
) -> None:
    own = own_runs(kind)
    written = predictions(Path(reflora("eval", own.run, "--json").json["directory"]))
    kept = [json.loads(line) for line in (own.run / "probe_rows.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [dict(zip(("subject", "body"), example["texts"], strict=True)) for example in kept]
    outcome = reflora("predict", own.run, write_csv(tmp_path / "new.csv", rows), "--json")
    assert outcome.status == 0, outcome.err
    answers = [json.loads(line) for line in outcome.out.splitlines()]
    key = {"classification": "label", "multilabel": "labels", "regression": "value"}[kind]
    for answer, line in zip(answers, written, strict=True):
        assert answer[key] == (
            pytest.approx(line["predicted"], abs=1e-4) if kind == "regression" else line["predicted"]
        )


def test_each_class_and_the_confusions_are_reported(own_runs: Callable[[str], Own], reflora: Reflora) -> None:
    own = own_runs("classification")
    outcome = reflora("eval", own.run, "--json")
    written = predictions(Path(outcome.json["directory"]))
    labels, found = [row["label"] for row in written], [row["predicted"] for row in written]
    report = outcome.json["report"]["validation"]
    names = sorted(WORDS)
    expected = sklearn.metrics.confusion_matrix(labels, found, labels=names)
    assert report["confusion"] == expected.tolist()
    lines = sklearn.metrics.classification_report(labels, found, labels=names, output_dict=True, zero_division=0)
    for name in names:
        line = {**report["classes"][name], "f1-score": report["classes"][name]["f1"]}
        assert {key: line[key] for key in ("precision", "recall", "f1-score")} == pytest.approx(
            {key: lines[name][key] for key in ("precision", "recall", "f1-score")}
        )
        assert line["rows"] == lines[name]["support"]
        assert name in outcome.err
    assert all(abs(sum(row["probabilities"].values()) - 1) < 1e-5 for row in written)
    assert (own.run / "confusion.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_labels_are_found_shown_and_kept_everywhere(
    kind: str, own_runs: Callable[[str], Own], reflora: Reflora, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    own, names = own_runs(kind), sorted(WORDS)
    assert "labels" in own.outcome.err
    assert all(f"{name} (" in own.outcome.err for name in names)
    assert yaml.safe_load((own.run / "recipe.yaml").read_text())["task"]["labels"] == names
    assert json.loads((own.run / "adapter" / "reflora.json").read_text())["label_names"] == names
    run = shutil.copytree(own.run, tmp_path / "run")
    # The file is not read again: the run's recipe and its kept rows have all that is needed.
    kept = (run / "recipe.yaml").read_text(encoding="utf-8")
    (run / "recipe.yaml").write_text(kept.replace(str(own.data), str(tmp_path / "gone.csv")), encoding="utf-8")
    assert reflora("merge", run, "--output", run / "merged").status == 0
    config = AutoModelForSequenceClassification.from_pretrained(run / "merged").config
    assert list(config.id2label.values()) == names
    assert config.label2id == {name: index for index, name in enumerate(names)}
    assert config.problem_type == {"classification": "single_label_classification"}.get(
        kind, "multi_label_classification"
    )
    outcome = reflora("export", run, "--format", "onnx")
    assert outcome.status == 0, outcome.err
    facts = onnxruntime.InferenceSession(str(run / "export-onnx" / "model.onnx")).get_modelmeta()
    assert json.loads(facts.custom_metadata_map["labels"]) == names
    assert all(name in (run / "export-onnx" / "README.md").read_text() for name in names)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_resumed_on_the_same_rows(
    kind: str, own_runs: Callable[[str], Own], reflora: Reflora, tmp_path: Path
) -> None:
    """The user's recipe names no labels, and the run goes on as if it had never stopped."""
    own = own_runs(kind)
    run = shutil.copytree(own.run, tmp_path / "run")
    (run / "results.json").unlink()
    shutil.rmtree(sorted((run / "checkpoints").iterdir())[-1])
    outcome = reflora("train", own.recipe, "--output", run, "--resume", "--json")
    assert outcome.status == 0, outcome.err
    assert "continuing from" in outcome.err
    kept = ("scores", "report", "history", "selected_step")
    assert {key: outcome.json.get(key) for key in kept} == {key: own.outcome.json.get(key) for key in kept}
    weights = "adapter/adapter_model.safetensors"
    assert (run / weights).read_bytes() == (own.run / weights).read_bytes()


def test_other_rows_are_all_scored_and_those_of_training_are_refused(
    own_runs: Callable[[str], Own], reflora: Reflora, tmp_path: Path
) -> None:
    own = own_runs("classification")
    new = write_csv(tmp_path / "new.csv", rows_of("classification", 30))
    outcome = reflora("eval", own.run, f"task.data={new}", "--json")
    assert outcome.json["rows"] == {"validation": 30}
    moved = shutil.copy(own.data, tmp_path / "moved.csv")
    outcome = reflora("eval", own.run, f"task.data={moved}", "--json")
    assert outcome.json["scores"] == own.outcome.json["scores"]
    assert reflora("eval", own.run, "--split", "validation", "--json").json["rows"] == {"validation": 20}
    assert reflora("eval", own.run, "--split", "train", "--json").json["rows"] == {"train": 80}
    assert reflora("eval", own.run, "task.validation=null").status == 2
    other = reflora("eval", own.run, "--task", "glue/cola")
    assert (other.status, "task of your own" in other.err) == (2, True)


def test_a_recipe_with_an_adapter_has_the_labels_of_the_adapter(
    own_runs: Callable[[str], Own], reflora: Reflora
) -> None:
    """The recipe names none, and its rows are not asked for them; nothing is written beside a run."""
    own = own_runs("classification")
    outcome = reflora("eval", own.recipe, "--adapter", own.run / "adapter", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["scores"] == own.outcome.json["scores"]
    assert "directory" not in outcome.json
    assert reflora("eval", own.recipe).status == 2


def test_the_best_adapter_is_the_one_with_the_smallest_error(reflora: Reflora, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "rows.csv", rows_of("regression"))
    recipe = write_recipe(
        tmp_path, kind="regression", data=str(data), text="body", label="category", validation=20, metric="mae"
    )
    outcome = reflora("train", recipe, "train.learning_rate=3e-2", "--output", tmp_path / "run", "--json")
    assert outcome.status == 0, outcome.err
    errors = {record["step"]: record["mae"] for record in records(tmp_path / "run", "evaluation")}
    assert len(set(errors.values())) > 1
    assert outcome.json["selected_step"] == min(errors, key=lambda step: errors[step])
    assert outcome.json["main_metric"] == "mae"


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_laid_out_like_glue_s(packed: bool, reflora: Reflora, tmp_path: Path) -> None:
    """Numbers as labels, in columns of JSON; class ids are not meant by them."""
    for split, count in (("train", 60), ("validation", 20)):
        rows = [{"text": f"{'good' if i % 2 else 'bad'} cup {i}", "label": 10 if i % 2 else 9} for i in range(count)]
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        name = f"{split}.jsonl{'.gz' if packed else ''}"
        (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    recipe = write_recipe(tmp_path, kind="classification", data=str(tmp_path), name="stars")
    outcome = reflora("train", recipe, "--output", tmp_path / "run", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["task"] == "stars"
    assert list(outcome.json["scores"]["validation"]) == ["accuracy", "macro_f1", "matthews", "loss"]
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["task"]["labels"] == ["9", "10"]
    lines = predictions(Path(reflora("eval", tmp_path / "run", "--json").json["directory"]))
    assert [line["label"] for line in lines] == ["9", "10"] * 10


def test_several_columns_of_zero_and_one(reflora: Reflora, tmp_path: Path) -> None:
    dice = random.Random(1)
    rows = [{"text": f"cup {i}", "red": dice.randrange(2), "big": dice.randrange(2)} for i in range(60)]
    data = write_csv(tmp_path / "rows.csv", rows)
    recipe = write_recipe(
        tmp_path, kind="multilabel", data=str(data), label=["red", "big"], validation=12, class_weights="balanced"
    )
    outcome = reflora("train", recipe, "train.epochs=1", "--output", tmp_path / "run", "--json")
    assert outcome.status == 0, outcome.err
    kept = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["task"]
    red = sum(row["red"] for row in rows)
    assert kept["labels"] == ["red", "big"]
    assert kept["class_weights"][0] == pytest.approx((60 - red) / red)
    lines = predictions(Path(reflora("eval", tmp_path / "run", "--json").json["directory"]))
    assert {tuple(line["label"]) for line in lines} <= {(), ("red",), ("big",), ("red", "big")}


GOOD = [{"text": f"cup {i}", "label": ("red", "blue")[i % 2]} for i in range(40)]
DESCRIBED: dict[str, Any] = {"kind": "classification", "validation": 8}


def changed(**cells: Any) -> list[dict[str, Any]]:
    return [*GOOD[:6], {**GOOD[6], **cells}, *GOOD[7:]]


WRONG: dict[str, tuple[list[dict[str, Any]], dict[str, Any], tuple[str, ...]]] = {
    "three texts": (GOOD, {"text": ["a", "b", "c"]}, ("names 3 columns", "task.text")),
    "missing column": (GOOD, {"label": "labell"}, ("column 'labell' is missing", "mean 'label'? Set task.label")),
    "column named twice": (GOOD, {"text": "label"}, ("'label' is named twice",)),
    "missing label": (changed(label=None), {}, ("'label' is missing", "row 7")),
    "no number for a label": (changed(label=float("nan")), {}, ("row 7",)),
    "empty label": (changed(label=" "), {}, ("'label' is missing", "row 7")),
    "texts and numbers": (changed(label=3), {}, ("holds texts and numbers", "'red'", "3 in", "row 7")),
    "unknown label": (GOOD, {"labels": ["red", "bleu"]}, ("no training row has the label", "bleu")),
    "label that is not given": (
        changed(label="bule"),
        {"labels": ["red", "blue"]},
        ("not one of the task's labels", "row 7", "did you mean 'blue'?"),
    ),
    "one class": (
        [{**row, "label": "red"} for row in GOOD],
        {},
        ("fewer than two different labels", "red in all 40 rows"),
    ),
    "a class for every row": (
        [{**row, "label": f"n{i}"} for i, row in enumerate(GOOD)],
        {},
        ("nearly every row has a label of its own", "40 labels"),
    ),
    "list for a class": (changed(label=["red"]), {}, ("'label' is not a label", "row 7", "task.kind=multilabel")),
    "metric of another kind": (GOOD, {"metric": "acuracy"}, ("task.metric", "did you mean 'accuracy'?")),
    "too many held out": (GOOD, {"validation": 39}, ("too many rows would be held out", "at most 38")),
    "share that is none": (GOOD, {"validation": "ten"}, ("task.validation", "10%")),
    "one file trained on and scored": (
        GOOD,
        {"validation": None},
        ("cannot be used for training and scoring", "task.validation=10%"),
    ),
    "no number": (GOOD, {"kind": "regression"}, ("is not a finite number", "row 1")),
    "labels of a regression": (
        GOOD,
        {"kind": "regression", "labels": ["a"]},
        ("task.labels is not for task.kind=regression",),
    ),
    "weights for other labels": (GOOD, {"class_weights": [1.0]}, ("1 weights for 0 labels",)),
    "several label columns": (GOOD, {"label": ["a", "b"]}, ("one column of labels", "multilabel")),
    "neither 0 nor 1": (
        [{**row, "a": 1, "b": i % 3} for i, row in enumerate(GOOD)],
        {"kind": "multilabel", "label": ["a", "b"]},
        ("'b' is neither 0 nor 1", "row 3"),
    ),
    "no row has the column's label": (
        [{**row, "a": 1, "b": 0} for row in GOOD],
        {"kind": "multilabel", "label": ["a", "b"]},
        ("no training row has the label", "found: b"),
    ),
    "list written as text": (changed(label="['red']"), {"kind": "multilabel"}, ("a list written as text", "row 7")),
    "unknown kind": (GOOD, {"kind": "classificaton"}, ("did you mean 'classification'?",)),
    "keys of no kind": (GOOD, {"kind": None, "name": "glue/cola", "label": "x"}, ("known by its name", "task.label")),
    "name of another task": (GOOD, {"name": "glue/cola"}, ("'glue/cola' has columns and labels of its own",)),
    "no data": (GOOD, {"data": "hub"}, ("needs your own data", "task.data")),
    "weights that are all zero": (
        GOOD,
        {"labels": ["red", "blue"], "class_weights": [0, 0]},
        ("all of task.class_weights are zero", "task.class_weights"),
    ),
    "a number whose square is not finite": (
        [{**row, "label": 1e30} for row in GOOD],
        {"kind": "regression"},
        ("'label' is too large to be learned", "row 1", "smaller unit"),
    ),
    "share that is a number": (GOOD, {"validation": 1.5}, ("task.validation", "a whole number >= 1")),
    "no text": (changed(text=5), {}, ("'text' is not a text", "row 7")),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(case: str, reflora: Reflora, tmp_path: Path) -> None:
    rows, task, words = WRONG[case]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = write_recipe(tmp_path, **{"data": str(data), **DESCRIBED, **task})
    outcome = reflora("train", recipe, "--output", tmp_path / "run")
    assert outcome.status == 2, outcome.err
    assert not [word for word in words if word not in outcome.err], outcome.err
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run").exists()


def test_label_that_only_the_validation_file_has(reflora: Reflora, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOOD))
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed(label="green")))
    recipe = write_recipe(tmp_path, kind="classification", data=str(tmp_path))
    outcome = reflora("train", recipe, "--output", tmp_path / "run")
    assert outcome.status == 2
    assert all(word in outcome.err for word in ("validation.jsonl, row 7", "'green'", "blue, red"))
