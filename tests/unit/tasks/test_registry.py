"""Every task: found by name, its labels read, its answers found, its scores right; mixtures and unknown names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reflora_cli.data.load import load_split
from reflora_cli.ground.errors import InputError
from reflora_cli.tasks.base import Mixture, PromptTask, SequenceTask
from reflora_cli.tasks.registry import TASKS, find_task

SEQUENCE = [name for name, task in TASKS.items() if isinstance(task, SequenceTask)]
COMMONSENSE = {
    "boolq": "true false",
    "piqa": "solution1 solution2",
    "social_i_qa": "answer1 answer2 answer3 answer4 answer5",
    "hellaswag": "ending1 ending2 ending3 ending4",
    "winogrande": "option1 option2",
    "ARC-Easy": "answer1 answer2 answer3 answer4 answer5",
    "ARC-Challenge": "answer1 answer2 answer3 answer4 answer5",
    "openbookqa": "answer1 answer2 answer3 answer4 answer5",
}
"""The tasks in the papers' order, and the words that LLM-Adapters looks for in a generated answer."""


def test_every_task_is_found_by_its_name() -> None:
    assert [name for name in TASKS if find_task(name).name != name] == []


@pytest.mark.parametrize("name", SEQUENCE)
def test_right_predictions_have_the_best_score_and_wrong_ones_a_lower(name: str) -> None:
    task = find_task(name)
    assert isinstance(task, SequenceTask)
    labels = [float(label) for label in range(len(task.label_names) or 6)] * 2
    assert task.score(labels, labels) == pytest.approx(dict.fromkeys(task.metrics, 1.0))
    assert all(score < 0.9 for score in task.score([labels[-1], *labels[:-1]], labels).values())


@pytest.mark.parametrize("name", SEQUENCE)
def test_label_names_in_a_file_become_the_ids(name: str, tmp_path: Path) -> None:
    """A regression's labels are numbers on its scale."""
    task = find_task(name)
    assert isinstance(task, SequenceTask)
    labels = task.label_names or tuple(range(6))
    rows = [{column: f"{column} {row}" for column in task.text} | {task.label: own} for row, own in enumerate(labels)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    examples = load_split(task, str(tmp_path), "train", None)
    assert [example.label for example in examples] == list(range(len(labels)))
    assert examples[1].texts == tuple(f"{column} 1" for column in task.text)


@pytest.mark.parametrize("short", COMMONSENSE)
def test_first_word_of_the_reference_in_an_answer_counts(short: str) -> None:
    task = find_task(f"commonsense/{short}")
    assert isinstance(task, PromptTask)
    words = COMMONSENSE[short].split()
    assert [task.parse(f"the correct answer is {word}.", ()) for word in words] == words
    assert task.parse(f"I think {words[1]}, not {words[0]}", ()) == words[1]
    assert task.parse(words[0].upper(), ()) is None
    assert task.parse("the correct answer is option9 or ending9", ()) is None


def test_mixture_is_all_eight_in_the_order_of_the_papers() -> None:
    mixture = find_task("commonsense")
    assert isinstance(mixture, Mixture)
    assert [part.short for part in mixture.parts] == list(COMMONSENSE)


def test_a_list_of_tasks_is_a_mixture() -> None:
    mixture = find_task(["commonsense/boolq", "instruct"])
    assert isinstance(mixture, Mixture)
    assert [part.name for part in mixture.parts] == ["commonsense/boolq", "instruct"]
    assert find_task(["glue/cola"]) is find_task("glue/cola")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["commonsense/boolq", "glue/cola"], ("glue/cola", "mixed")),
        (["commonsense", "commonsense/piqa"], ("twice", "commonsense/piqa")),
        (["commonsense/boolq", "commonsense/pica"], ("pica", "commonsense/piqa")),
    ],
)
def test_lists_that_make_no_sense(names: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        find_task(names)
    assert not [word for word in words if word not in str(caught.value)]


def test_candidates_are_looked_for_where_there_is_no_pattern() -> None:
    """The longer of two that begin alike is found, not its beginning."""
    task = find_task("builtin/questions")
    assert isinstance(task, PromptTask)
    assert task.parse("a tin box", ("tin", "tin box")) == "tin box"
    assert task.parse("wood", ("tin", "tin box")) is None


def test_score_has_the_main_metric_first_and_is_json() -> None:
    task = find_task("glue/mrpc")
    assert isinstance(task, SequenceTask)
    scores = task.score([1, 0, 1, 1], [1, 0, 0, 1])
    assert list(scores) == ["accuracy", "f1"]
    assert scores == pytest.approx({"accuracy": 0.75, "f1": 0.8})
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("glue/colla", "glue/cola"),
        ("cola", "glue/cola"),
        ("glue/stb", "glue/stsb"),
        ("entailment", "builtin/entailment"),
        ("arc-easy", "commonsense/ARC-Easy"),
        ("commonsens", "commonsense"),
    ],
)
def test_unknown_name_is_answered_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(InputError) as caught:
        find_task(name)
    (problem,) = caught.value.problems
    assert problem.found == repr(name)
    assert repr(meant) in problem.remedy


def test_tasks_import_no_heavy_library() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'sklearn', 'scipy', 'pandas', 'pyarrow'}"
    code = f"import sys, reflora_cli.tasks.registry, reflora_cli.data.load; print({heavy} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
