"""Two processes score as one does: the same numbers and the same file of predictions, to the bit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import Reflora
from tests.two_processes import run_by_two

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "reflora_cli", "eval"]
ON_THE_CPU = {"ACCELERATE_USE_CPU": "true"} if torch.cuda.is_available() else {}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", **ON_THE_CPU}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """The order in which a product is summed depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def launched(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*LAUNCH, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=180, check=False)


def by_torchrun(*arguments: object) -> tuple[str, str]:
    """Score with the installed launcher; what is printed and said."""
    done = launched(*arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, done.stderr


def by_forks(*arguments: object) -> tuple[str, str]:
    return run_by_two("eval", *arguments)


def told(results: dict[str, Any]) -> dict[str, Any]:
    """Results without what belongs to one evaluation alone."""
    tasks = {name: {**line, "seconds": None} for name, line in results.get("tasks", {}).items()}
    return {**results, "directory": None, "tasks": tasks}


def compare(
    reflora: Reflora, tmp_path: Path, *arguments: object, by_two: Callable[..., tuple[str, str]] = by_forks
) -> tuple[dict[str, Any], bytes]:
    """Score by one and by two processes; returns the results and the file of predictions, which are the same."""
    one, two = tmp_path / "one", tmp_path / "two"
    outcome = reflora("eval", *arguments, "--json", "--output", one)
    assert outcome.status == 0, outcome.err
    printed, said = by_two(*arguments, "--json", "--output", two)
    assert len(printed.splitlines()) == 1, "only the first process prints"
    assert told(json.loads(printed)) == told(outcome.json)
    assert (
        told(json.loads((two / "results.json").read_text())).keys()
        == told(json.loads((one / "results.json").read_text())).keys()
    )
    assert said.count("loading ") == said.count("row by row: ") == 1
    files = [sorted(place.glob("predictions-*.jsonl")) for place in (one, two)]
    assert [file.name for file in files[0]] == [file.name for file in files[1]]
    contents = [b"".join(file.read_bytes() for file in own) for own in files]
    assert contents[0] == contents[1]
    return outcome.json, contents[0]


def test_labels(trained: Path, reflora: Reflora, tmp_path: Path) -> None:
    """100 rows in batches of 7: one process has a batch more than the other."""
    results, predictions = compare(reflora, tmp_path, trained, "eval.batch_size=7", by_two=by_torchrun)
    assert results["rows"] == {"validation": 100}
    assert 0 < results["scores"]["validation"]["accuracy"] < 1
    assert [json.loads(line)["row"] for line in predictions.splitlines()] == list(range(1, 101))


def test_choices_continue_a_file_that_one_process_began(answering: Path, reflora: Reflora, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert reflora("eval", answering, "--limit", 9, "--output", tmp_path / name).status == 0
    results, predictions = compare(reflora, tmp_path, answering, "eval.batch_size=7")
    assert results["tasks"]["validation"]["rows"] == 60
    assert sorted(json.loads(line)["id"] for line in predictions.splitlines()) == list(range(60))


def test_generated_answers(answering: Path, reflora: Reflora, tmp_path: Path) -> None:
    """Of one batch alone the second process has nothing."""
    arguments = ("--protocol", "llm-adapters", "--limit", 20, "eval.max_new_tokens=4", "eval.batch_size=20")
    results, predictions = compare(reflora, tmp_path, answering, *arguments)
    assert results["tasks"]["validation"]["rows"] == 20
    assert any(json.loads(line)["output"] for line in predictions.splitlines())


def test_losses(reflora: Reflora, tmp_path: Path, language_recipe: Path) -> None:
    """Free text has a loss alone, whose last bits depend on the order of its batches."""
    data = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"Say {'so ' * (index % 9)}{index}", "output": f"so {index * 7}"} for index in range(41)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = (
        "--task",
        "instruct",
        f"task.data={data}",
        "--split",
        "train",
        "eval.batch_size=3",
        "task.max_length=96",
    )
    results, _ = compare(reflora, tmp_path, language_recipe, *settings)
    (line,) = results["tasks"].values()
    assert (line["rows"], line["loss"] > 0) == (41, True)


def test_what_only_the_first_process_sees_ends_all_with_one_message(answering: Path, tmp_path: Path) -> None:
    (tmp_path / "predictions-questions.jsonl").write_text("no line\n", encoding="utf-8")
    done = launched(answering, "--output", tmp_path)
    assert done.returncode == 1, "torchrun's own status"
    assert len(re.findall("a line of the file is not a prediction", done.stderr)) == 1, done.stderr
    assert "exitcode  : 2" in done.stderr
    assert "fault of reflora" not in done.stderr
    assert done.stdout == ""
    assert sorted(place.name for place in tmp_path.iterdir()) == ["predictions-questions.jsonl"]
