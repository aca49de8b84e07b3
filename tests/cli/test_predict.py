"""`reflora predict`: what it answers is what `reflora eval` counts, and wrong input is refused with exit status 2."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reflora_cli.builtin.rows import rows
from reflora_cli.cli import app
from reflora_cli.model.load import load_tokenizer
from reflora_cli.model.sources import find_source
from reflora_cli.objectives.sequence_asking import SequenceAnswerer
from tests.cli.conftest import Outcome, Reflora

ROWS = 60
NAMES = ("entailment", "not_entailment")
MERGED_TOLERANCE = 1e-4
"""Float32 rounding of probabilities, between an adapter beside its base and merged weights."""


def written(path: Path, found: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def validation(task: str) -> list[dict[str, Any]]:
    return [dict(row) for row in list(rows(task, "validation"))[:ROWS]]


def lines(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.status == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def piped(text: bytes, *arguments: object) -> Outcome:
    result = CliRunner().invoke(app, ["predict", *map(str, arguments)], input=text)
    return Outcome(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("rows") / "pairs.jsonl", validation("entailment"))


@pytest.fixture(scope="module")
def merged(reflora: Reflora, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("merged") / "model"
    assert reflora("merge", trained, "--output", output).status == 0
    return output


@pytest.fixture(scope="module")
def merged_language(reflora: Reflora, answering: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("merged") / "model"
    assert reflora("merge", answering, "--output", output).status == 0
    return output


def test_labels_are_those_that_an_evaluation_counts(reflora: Reflora, trained: Path, pairs: Path) -> None:
    found = lines(reflora("predict", trained, pairs, "--batch-size", 7))
    right = [row["label"] for row in validation("entailment")]
    assert [own["row"] for own in found] == list(range(1, ROWS + 1))
    assert {own["label"] for own in found} == set(NAMES), "a model that always says the same would prove nothing"
    names = [label if isinstance(label, str) else NAMES[label] for label in right]
    share = sum(own["label"] == name for own, name in zip(found, names, strict=True)) / ROWS
    scored = reflora("eval", trained, "--limit", ROWS, "--json").json
    assert share == pytest.approx(scored["scores"]["validation"]["accuracy"], abs=1e-12)
    loss = -sum(math.log(own["probabilities"][name]) for own, name in zip(found, names, strict=True)) / ROWS
    assert loss == pytest.approx(scored["scores"]["validation"]["loss"], abs=1e-5)


@pytest.mark.parametrize("protocol", ["choices", "llm-adapters"])
def test_answers_are_those_that_an_evaluation_keeps(
    reflora: Reflora, answering: Path, language_recipe: Path, tmp_path: Path, protocol: str
) -> None:
    questions = written(tmp_path / "questions.jsonl", validation("questions"))
    adapter = answering / "adapter"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"extends: {language_recipe}\neval: {{protocol: {protocol}}}\n", encoding="utf-8")
    found = lines(reflora("predict", recipe, questions, "--adapter", adapter))
    scored = reflora("eval", recipe, "--adapter", adapter, "--limit", ROWS, "--output", tmp_path / "scored")
    assert scored.status == 0, scored.err
    kept = [json.loads(line) for line in (tmp_path / "scored" / "predictions-questions.jsonl").open(encoding="utf-8")]
    parsed = {own["id"]: own["parsed"] for own in kept}
    output = {own["id"]: own["output"] for own in kept}
    assert len(set(parsed.values())) > 1
    assert [own["label"] for own in found] == [parsed[index] for index in range(ROWS)]
    assert [own.get("answer") for own in found] == [output[index] for index in range(ROWS)]


def test_a_question_without_candidates_is_answered_in_the_prompt_of_training(reflora: Reflora, answering: Path) -> None:
    question = "What is the shelf used for?"
    (prompted,) = lines(reflora("predict", answering, question))
    (raw,) = lines(reflora("predict", answering, "--raw", f"Question: {question} Answer:"))
    assert prompted["answer"] == raw["answer"] != ""
    assert set(prompted) == {"row", "question", "answer"}


def test_an_answer_is_as_long_as_asked(reflora: Reflora, answering: Path) -> None:
    (short,) = lines(reflora("predict", answering, "--raw", "The cup", "--max-new-tokens", 2))
    (long,) = lines(reflora("predict", answering, "--raw", "The cup", "--max-new-tokens", 12))
    assert len(short["answer"].split()) <= 2 <= len(long["answer"].split())
    assert long["answer"].startswith(short["answer"])


def test_a_merged_classifier_answers_as_its_run(reflora: Reflora, trained: Path, merged: Path, pairs: Path) -> None:
    own = lines(reflora("predict", trained, pairs))
    named = lines(reflora("predict", merged, pairs, "--columns", "premise,hypothesis"))
    tasked = lines(reflora("predict", merged, pairs, "--task", "builtin/entailment"))
    assert named == tasked
    for one, other in zip(own, named, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=MERGED_TOLERANCE)


def test_a_merged_classifier_of_one_text_takes_texts(reflora: Reflora, merged: Path) -> None:
    found = lines(reflora("predict", merged, "A cup is red.", "A cup is a cup."))
    assert [own["text"] for own in found] == ["A cup is red.", "A cup is a cup."]
    for own in found:
        assert tuple(own["probabilities"]) == NAMES
        assert sum(own["probabilities"].values()) == pytest.approx(1)
        assert own["label"] == max(own["probabilities"], key=own["probabilities"].__getitem__)


def test_a_merged_language_model_is_asked_as_it_was_trained(
    reflora: Reflora, answering: Path, merged_language: Path, tmp_path: Path
) -> None:
    """By the template that its tokenizer carries; one without, as older ones are, says that it knows no prompt."""
    question = "What is the shelf used for?"
    (own,) = lines(reflora("predict", answering, question, "--max-new-tokens", 8))
    carried = reflora("predict", merged_language, question, "--max-new-tokens", 8)
    assert "put into the tokenizer's chat template" in carried.err
    older = shutil.copytree(merged_language, tmp_path / "model")
    (older / "chat_template.jinja").unlink()
    outcome = reflora("predict", older, f"Question: {question} Answer:", "--max-new-tokens", 8)
    assert "does not record the prompt" in outcome.err
    tasked = reflora("predict", older, question, "--task", "builtin/questions", "--max-new-tokens", 8)
    assert "does not record the prompt" not in tasked.err
    found = [lines(each)[0]["answer"] for each in (carried, outcome, tasked)]
    assert found == [own["answer"]] * 3


def test_standard_input_holds_texts_or_objects(trained: Path, answering: Path, merged: Path) -> None:
    texts = lines(piped("one cup\r\n\ntwo cüps\n".encode(), merged))
    assert [own["text"] for own in texts] == ["one cup", "two cüps"]
    objects = "".join(json.dumps(row) + "\n" for row in validation("entailment")[:3]).encode()
    assert len(lines(piped(objects, trained, "-"))) == 3
    braces = lines(piped(b"{curious} text\nanother\n", answering, "--raw"))
    assert [own["question"] for own in braces] == ["{curious} text", "another"]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_files_of_every_kind_are_read(
    reflora: Reflora, trained: Path, pairs: Path, tmp_path: Path, suffix: str
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    found = [{"premise": row["premise"], "hypothesis": row["hypothesis"]} for row in validation("entailment")]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        parquet.write_table(pa.Table.from_pylist(found), path)
    else:
        mark = "\t" if suffix == "tsv" else ","
        text = "".join(f"{row['premise']}{mark}{row['hypothesis']}\n" for row in found)
        path.write_text(f"premise{mark}hypothesis\n{text}", encoding="utf-8")
    assert lines(reflora("predict", trained, path)) == lines(reflora("predict", trained, pairs))


def test_a_row_that_is_too_long_is_counted_and_said(reflora: Reflora, trained: Path, tmp_path: Path) -> None:
    texts = ["cup", "cup " * 20, "cup " * 21, "cup " * 22, "cup " * 23, "cup " * 200]
    path = written(tmp_path / "rows.jsonl", [{"premise": text, "hypothesis": "cup"} for text in texts])
    outcome = reflora("predict", trained, path)
    tokenizer = load_tokenizer(find_source("builtin:tiny-llama", None))
    whole = [len(tokenizer(text, "cup")["input_ids"]) for text in texts]
    expected = [length > 48 for length in whole]
    assert 0 < sum(expected) < len(texts)
    assert 48 in whole, "a row that just fits belongs to the test"
    assert [own.get("truncated", False) for own in lines(outcome)] == expected
    assert f"{sum(expected)} of {len(texts)} rows were too long" in outcome.err


def test_progress_is_told(reflora: Reflora, trained: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reflora_cli.console.pace.FIRST", 0.0)
    said = reflora("predict", trained, pairs, "--batch-size", 5).err.splitlines()
    assert said[0] == f"loading {trained}"
    assert f"{ROWS} rows, 5 at a time, on cpu" in said
    assert any(line.startswith(f"predicting: 5 of {ROWS} rows, ") and line.endswith("s left") for line in said)


def test_an_interrupted_output_is_continued(
    reflora: Reflora, trained: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    arguments = ("predict", trained, pairs, "--batch-size", 8)
    assert reflora(*arguments, "--output", whole, "--json").json["made"] == ROWS
    answer, calls = SequenceAnswerer.answer, []

    def stopped(self: SequenceAnswerer, questions: Any) -> Any:
        calls.append(len(questions))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return answer(self, questions)

    with monkeypatch.context() as patch:
        patch.setattr(SequenceAnswerer, "answer", stopped)
        assert reflora(*arguments, "--output", broken).status == 130
    assert not broken.exists()
    (part,) = (tmp_path / "broken.jsonl.part").glob("*.jsonl")
    with part.open("ab") as stream:
        stream.write(b'{"id": 59, "val')  # half a line, as a kill leaves it
    changed = written(tmp_path / "changed.jsonl", validation("entailment")[1:])
    refused = reflora("predict", trained, changed, "--output", broken)
    assert (refused.status, "of other rows or of another model" in refused.err) == (2, True)
    outcome = reflora(*arguments, "--output", broken, "--json")
    assert outcome.json["made"] == ROWS - 24, outcome.err
    assert f"24 of {ROWS} rows are there already" in outcome.err
    assert [json.loads(line) for line in broken.open(encoding="utf-8")] == [
        {**json.loads(line), "probabilities": pytest.approx(json.loads(line)["probabilities"], abs=1e-5)}
        for line in whole.open(encoding="utf-8")
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"whole.jsonl", "broken.jsonl", "changed.jsonl"}


def test_a_finished_output_is_left_alone(reflora: Reflora, trained: Path, pairs: Path, tmp_path: Path) -> None:
    output = tmp_path / "found.csv"
    assert reflora("predict", trained, pairs, "--output", output).status == 0
    before = output.read_bytes()
    again = reflora("predict", trained, pairs, "--output", output, "--json")
    assert again.json["made"] == 0
    changed = written(tmp_path / "changed.jsonl", validation("entailment")[1:])
    assert reflora("predict", trained, changed, "--output", output).status == 2
    assert output.read_bytes() == before
    table = list(csv.DictReader(io.StringIO(before.decode(), newline="")))
    printed = lines(reflora("predict", trained, pairs))
    assert [row["label"] for row in table] == [own["label"] for own in printed]
    for row, own in zip(table, printed, strict=True):
        assert {name: float(row[f"probabilities.{name}"]) for name in NAMES} == pytest.approx(own["probabilities"])


def test_a_csv_keeps_texts_with_line_breaks_and_quotes(reflora: Reflora, merged: Path, tmp_path: Path) -> None:
    texts = ['a "cup", red\nand small', "=1+1", "", "two\r\nlines"]
    path = written(tmp_path / "rows.jsonl", [{"body": text} for text in texts])
    output = tmp_path / "found.csv"
    assert reflora("predict", merged, path, "--columns", "body", "--output", output).status == 0
    with output.open(encoding="utf-8", newline="") as stream:
        assert [row["body"] for row in csv.DictReader(stream)] == texts
    assert reflora("predict", merged, path, "--columns", "body", "--output", output, "--json").json["made"] == 0


def test_a_regression_answers_with_values(reflora: Reflora, recipe: Path, small_glue: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sizes = ("task.max_train_rows=64", "task.max_eval_rows=16", "method.refactor.warmup_steps=1", "train.epochs=1")
    trained = reflora("train", recipe, *sizes, "task.name=glue/stsb", f"task.data={small_glue}", "--output", run)
    assert trained.status == 0, trained.err
    found = lines(reflora("predict", run, small_glue / "stsb" / "validation.jsonl"))
    assert len(found) == ROWS
    assert all(isinstance(own["value"], float) and "label" not in own for own in found)
    assert reflora("merge", run, "--output", tmp_path / "merged").status == 0
    again = reflora("predict", tmp_path / "merged", small_glue / "stsb" / "validation.jsonl", "--task", "glue/stsb")
    assert [own["value"] for own in lines(again)] == pytest.approx([own["value"] for own in found], abs=1e-4)


def test_wrong_rows_are_refused(reflora: Reflora, trained: Path, tmp_path: Path) -> None:
    empty, lacking, broken = (tmp_path / name for name in ("empty.jsonl", "lacking.jsonl", "broken.jsonl"))
    empty.write_text("")
    written(lacking, [{"premise": "a cup", "hypothesys": "a cup"}])
    broken.write_text('{"premise": "a cup", ')
    numbers = written(tmp_path / "numbers.jsonl", [{"premise": "a cup", "hypothesis": 3}])
    cases: dict[str, tuple[object, ...]] = {
        "there are no rows": (empty,),
        "did you mean 'hypothesys'": (lacking,),
        "not valid JSON": (broken,),
        "'hypothesis' is not a text": (numbers,),
        "there is no such file": (tmp_path / "absent.csv",),
        "file type is not supported": (tmp_path,),
        "only one file can be read": (lacking, empty),
        "has 2 texts": ("a cup",),
        "--columns does not name the columns": (lacking, "--columns", "premise"),
        "column 'hypothesis' is missing": (lacking, "--columns", "premise,hypothesis"),
        "labels and no prompts": (lacking, "--raw"),
        "--max-new-tokens has no effect": (lacking, "--max-new-tokens", 8),
        "cannot be written in this file format": (lacking, "--output", tmp_path / "found.xlsx"),
    }
    for expected, arguments in cases.items():
        outcome = reflora("predict", trained, *arguments)
        assert (outcome.status, outcome.out) == (2, ""), (expected, outcome.err)
        assert expected in outcome.err
    for expected, text in {
        "there are no rows": b"\n",
        "not UTF-8": b"a\n\xff\n",
        "row 2": b'{"a": 1}\n{"a": \n',
    }.items():
        outcome = piped(text, trained)
        assert (outcome.status, expected in outcome.err) == (2, True), outcome.err
    assert not list(tmp_path.glob("*.part"))


def test_wrong_models_are_refused(reflora: Reflora, trained: Path, merged: Path, pairs: Path, tmp_path: Path) -> None:
    nameless = shutil.copytree(merged, tmp_path / "nameless")
    config = json.loads((nameless / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "LABEL_0", "1": "LABEL_1"}, {"LABEL_0": 0, "LABEL_1": 1}
    (nameless / "config.json").write_text(json.dumps(config))
    odd = shutil.copytree(merged, tmp_path / "odd")
    (odd / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaModel"]}))
    cases: dict[str, tuple[object, ...]] = {
        "does not name its labels": (nameless, "a cup"),
        "neither labels texts nor writes answers": (odd, "a cup"),
        "an adapter without its base": (trained / "adapter", "a cup"),
        "neither a run nor a model": (tmp_path, "a cup"),
        "there is no such model": (tmp_path / "nowhere", "a cup"),
        "no trained head": ("quickstart", pairs),
        "cannot be used with a model directory": (merged, "a cup", "--adapter", trained / "adapter"),
        "for other labels than the task's": (merged, "a cup", "--task", "builtin/acceptability"),
    }
    for expected, arguments in cases.items():
        outcome = reflora("predict", *arguments)
        assert (outcome.status, outcome.out) == (2, ""), (expected, outcome.err)
        assert expected in outcome.err
    found = reflora("predict", nameless, pairs, "--task", "builtin/entailment")
    assert lines(found) == lines(reflora("predict", merged, pairs, "--task", "builtin/entailment"))


def test_a_directory_may_be_called_like_a_recipe(
    reflora: Reflora, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quickstart").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "no trained head" in reflora("predict", "quickstart", pairs).err


def test_several_processes_are_refused(
    reflora: Reflora, trained: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = reflora("predict", trained, pairs)
    assert (outcome.status, "runs in one process only" in outcome.err) == (2, True)
