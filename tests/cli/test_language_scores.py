"""`reflora eval` of language models: every row's prediction is kept, and a stopped evaluation continues."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from reflora_cli.ground.atomic import locked
from tests.cli.conftest import Reflora


@pytest.fixture
def run(answering: Path, tmp_path: Path) -> Path:
    return shutil.copytree(answering, tmp_path / "run")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def predictions(directory: str) -> Path:
    return Path(directory) / "predictions-questions.jsonl"


def test_eval_repeats_the_score_of_training_and_keeps_every_prediction(run: Path, reflora: Reflora) -> None:
    results = json.loads((run / "results.json").read_text())
    outcome = reflora("eval", run, "--json")
    assert outcome.status == 0, outcome.err
    scores = outcome.json["tasks"]["validation"]
    assert scores["accuracy"] == results["scores"]["validation"]["accuracy"]
    assert scores["rows"] == 60
    assert scores["interval"][0] < scores["accuracy"] < scores["interval"][1]
    records = lines(predictions(outcome.json["directory"]))
    assert sorted(record["id"] for record in records) == list(range(60))
    assert sum(record["correct"] for record in records) / 60 == scores["accuracy"]
    for record in records:
        assert record["parsed"] == max(record["scores"], key=record["scores"].__getitem__)
        assert record["correct"] == (record["parsed"] == record["label"])


def test_protocols_are_kept_apart(run: Path, reflora: Reflora) -> None:
    chosen, generated = (
        reflora("eval", run, "--protocol", name, "--limit", 12, "--json").json for name in ("choices", "llm-adapters")
    )
    assert chosen["directory"] != generated["directory"]
    assert chosen["identity"]["protocol"] == "choices"
    assert generated["identity"]["protocol"] == "llm-adapters"
    assert generated["identity"]["num_beams"] == 1
    records = lines(predictions(generated["directory"]))
    assert all(record["scores"] is None and isinstance(record["output"], str) for record in records)
    unparsed = sum(record["parsed"] is None for record in records)
    assert generated["tasks"]["validation"]["unparsed"] == unparsed / 12


@pytest.mark.parametrize("protocol", ["choices", "llm-adapters"])
def test_batch_size_changes_no_row(protocol: str, run: Path, reflora: Reflora, tmp_path: Path) -> None:
    found = []
    for size in (1, 32):
        place = tmp_path / str(size)
        outcome = reflora("eval", run, f"eval.batch_size={size}", "--protocol", protocol, "--output", place)
        assert outcome.status == 0, outcome.err
        found.append({record["id"]: record for record in lines(place / "predictions-questions.jsonl")})
    one, many = found
    assert one.keys() == many.keys()
    for index, record in one.items():
        for key in ("parsed", "output", "by_character"):
            assert record[key] == many[index][key]


def test_an_interrupted_evaluation_continues_where_it_stopped(run: Path, reflora: Reflora) -> None:
    """Cut in the middle of a line: whole lines stay as they are, the rest is scored anew."""
    arguments = ("eval.batch_size=16", "--json")
    whole = reflora("eval", run, *arguments).json
    path = predictions(whole["directory"])
    content = path.read_bytes()
    end = content.index(b"\n", len(content) // 2)
    path.write_bytes(content[: end - 20])
    outcome = reflora("eval", run, *arguments)
    assert outcome.status == 0, outcome.err
    assert "rows are there already" in outcome.err
    assert path.read_bytes().startswith(content[: content.rindex(b"\n", 0, end - 20)])
    again = outcome.json["tasks"]["validation"]
    assert {**again, "seconds": 0} == {**whole["tasks"]["validation"], "seconds": 0}
    assert len(lines(path)) == 60


def test_predictions_of_other_rows_are_refused(run: Path, reflora: Reflora) -> None:
    outcome = reflora("eval", run, "--json")
    path = predictions(outcome.json["directory"])
    path.write_text(path.read_text().replace('"prompt": "', '"prompt": "x'))
    refused = reflora("eval", run)
    assert refused.status == 2
    assert "other rows" in refused.err


@pytest.mark.parametrize(
    "change", [{"id": "0"}, {"id": -1}, {"id": None}, {"id": 1.5}, {"cut": "no"}, {"scores": [1]}, {"label": 3}]
)
def test_lines_that_are_none_are_refused(change: dict[str, object], run: Path, reflora: Reflora) -> None:
    path = predictions(reflora("eval", run, "--limit", 4, "--json").json["directory"])
    first, *rest = lines(path)
    path.write_text("".join(json.dumps(record) + "\n" for record in ({**first, **change}, *rest)))
    refused = reflora("eval", run, "--limit", 4)
    assert refused.status == 2, refused.err
    assert f"{next(iter(change))}" in refused.err


def test_an_answer_that_was_changed_is_not_counted(run: Path, reflora: Reflora) -> None:
    """The right answer is that of the row, whatever the file says."""
    path = predictions(reflora("eval", run, "--limit", 4, "--json").json["directory"])
    first, *rest = lines(path)
    path.write_text("".join(json.dumps(r) + "\n" for r in ({**first, "label": first["parsed"] + "!"}, *rest)))
    assert reflora("eval", run, "--limit", 4).status == 2


def test_predictions_are_not_written_through_a_link(run: Path, reflora: Reflora, tmp_path: Path) -> None:
    path = predictions(reflora("eval", run, "--limit", 4, "--json").json["directory"])
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.unlink()
    path.symlink_to(victim)
    assert reflora("eval", run, "--limit", 4).status == 2
    assert victim.read_text() == "precious"


def test_one_process_scores_into_a_directory(run: Path, reflora: Reflora, tmp_path: Path) -> None:
    with locked(tmp_path / "scores"):
        outcome = reflora("eval", run, "--limit", 4, "--output", tmp_path / "scores")
    assert outcome.status == 2
    assert "another process" in outcome.err


def test_a_limit_takes_the_first_rows_of_what_is_there(run: Path, reflora: Reflora) -> None:
    reflora("eval", run)
    outcome = reflora("eval", run, "--limit", 10, "--json")
    records = [record for record in lines(predictions(outcome.json["directory"])) if record["id"] < 10]
    assert outcome.json["tasks"]["validation"]["rows"] == 10
    assert outcome.json["tasks"]["validation"]["accuracy"] == sum(record["correct"] for record in records) / 10


def test_a_base_model_is_scored_as_it_is(language_recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("eval", language_recipe, "--output", tmp_path / "scores", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["adapter"] is None
    assert outcome.json["tasks"]["validation"]["accuracy"] > 0.4


def test_commonsense_table_has_eight_tasks_and_their_mean(
    run: Path, small_commonsense: Path, reflora: Reflora, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--task", "commonsense", f"task.data={small_commonsense}")
    outcome = reflora("eval", run, *arguments, "--protocol", "choices", "--json")
    assert outcome.status == 0, outcome.err
    tasks = outcome.json["tasks"]
    assert len(tasks) == 8
    accuracies = [own["accuracy"] for own in tasks.values()]
    assert outcome.json["mean"]["accuracy"] == pytest.approx(sum(accuracies) / 8)
    assert outcome.json["mean"]["rows"] == sum(own["rows"] for own in tasks.values())
    assert {path.name for path in Path(outcome.json["directory"]).glob("*.jsonl")} == {
        f"predictions-{name}.jsonl" for name in tasks
    }
    assert "mean" in outcome.err
    some = reflora(
        "eval", run, "--task", "commonsense/boolq", "--task", "commonsense/piqa", arguments[2], "--json", "--limit", 2
    )
    assert list(some.json["tasks"]) == ["boolq", "piqa"]
