"""Texts from data: trained, scored by BLEU, and the same BLEU by sacrebleu's command from what was written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Reflora, records


@pytest.fixture(scope="module")
def run(small_nlg: Path, reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    recipe = {
        "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
        "method": {"name": "lora", "rank": 8, "alpha": 16, "targets": "all-linear"},
        "task": {"name": "nlg/e2e", "data": str(small_nlg), "max_length": 64},
        "train": {"epochs": 6, "batch_size": 16, "learning_rate": 5e-3, "label_smoothing": 0.1},
        "eval": {"at_start": True, "max_new_tokens": 16, "num_beams": 2, "length_penalty": 0.8, "no_repeat_ngram": 4},
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    outcome = reflora("train", place / "recipe.yaml", "--output", place / "run")
    assert outcome.status == 0, outcome.err
    return place / "run"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def bleu_of_command(predictions: list[dict[str, Any]], place: Path) -> float:
    """What sacrebleu's command says of the texts in a file of predictions."""
    most = max(len(own["references"]) for own in predictions)
    names = [f"reference{number}" for number in range(most)]
    for number, name in enumerate(names):
        texts = [(*own["references"], *[""] * most)[number] for own in predictions]
        (place / name).write_text("".join(" ".join(text.split()) + "\n" for text in texts), encoding="utf-8")
    hypotheses = "".join(" ".join(own["output"].split()) + "\n" for own in predictions)
    (place / "hypotheses").write_text(hypotheses, encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", *names, "-i", "hypotheses", "-b", "-w", "9"]
    return float(subprocess.run(command, cwd=place, capture_output=True, text=True, check=True).stdout)


def test_training_raises_bleu_and_keeps_the_best(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    history = [own["bleu"] for own in records(run, "evaluation")]
    assert len(history) == 7
    assert max(history) > history[0] + 20
    assert results["scores"]["validation"]["bleu"] == max(history)


def test_bleu_is_that_of_sacrebleu_s_command_on_the_written_predictions(
    run: Path, reflora: Reflora, tmp_path: Path
) -> None:
    outcome = reflora("eval", run, "--json")
    assert outcome.status == 0, outcome.err
    scores = outcome.json["tasks"]["validation"]
    assert scores["bleu"] == json.loads((run / "results.json").read_text())["scores"]["validation"]["bleu"]
    assert scores["interval"][0] <= scores["bleu"] <= scores["interval"][1]
    written = lines(Path(outcome.json["directory"]) / "predictions-e2e.jsonl")
    assert len(written) == scores["rows"] == 11
    assert {len(own["references"]) for own in written} == {2}
    assert all(own["correct"] == (own["parsed"] in own["references"]) for own in written)
    assert scores["bleu"] == pytest.approx(bleu_of_command(written, tmp_path), abs=1e-8)
    identity = outcome.json["identity"]
    assert (identity["protocol"], identity["length_penalty"], identity["no_repeat_ngram"]) == ("references", 0.8, 4)


def test_rows_with_one_input_are_asked_once_and_have_all_references(
    run: Path, small_nlg: Path, reflora: Reflora, tmp_path: Path
) -> None:
    outcome = reflora("eval", run, "--split", "test", "--limit", 20, "--json")
    assert outcome.status == 0, outcome.err
    written = lines(Path(outcome.json["directory"]) / "predictions-e2e-test.jsonl")
    expected: dict[str, list[str]] = {}
    for row in lines(small_nlg / "test.jsonl"):
        expected.setdefault(row["meaning"], []).append(row["text"])
    wanted = list(expected.values())[:20]
    assert {len(own) for own in wanted} == {1, 2}
    assert [own["references"] for own in sorted(written, key=lambda own: int(own["id"]))] == wanted
    assert outcome.json["tasks"]["test"]["bleu"] == pytest.approx(bleu_of_command(written, tmp_path), abs=1e-8)


def test_predictions_of_other_references_are_refused(run: Path, reflora: Reflora, tmp_path: Path) -> None:
    arguments = ("eval", run, "--limit", 3, "--output", tmp_path)
    assert reflora(*arguments).status == 0
    path = tmp_path / "predictions-e2e.jsonl"
    content = path.read_text(encoding="utf-8")
    path.write_text(content.replace("there is a", "there was a"), encoding="utf-8")
    refused = reflora(*arguments)
    assert refused.status == 2
    assert "other rows" in refused.err


def test_a_merged_model_writes_the_same(run: Path, reflora: Reflora, tmp_path: Path) -> None:
    assert reflora("merge", run, "--output", tmp_path / "merged").status == 0
    whole = reflora("eval", run, "--json").json["tasks"]["validation"]
    merged = reflora(
        "eval", run / "recipe.yaml", f"model.name={tmp_path / 'merged'}", "--output", tmp_path / "scores", "--json"
    )
    assert merged.status == 0, merged.err
    assert merged.json["tasks"]["validation"]["bleu"] == pytest.approx(whole["bleu"], abs=1e-6)


def test_a_greedy_search_has_no_length_penalty(run: Path, reflora: Reflora) -> None:
    refused = reflora("eval", run, "eval.num_beams=1")
    assert refused.status == 2
    assert "length_penalty" in refused.err
