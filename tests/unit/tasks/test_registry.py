"""Every task record: columns, labels, splits and metrics, as the hub's data sets have them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from reflora_cli.errors import InputError
from reflora_cli.tasks.base import BuiltinSource, HubSource, Mixture, PromptTask, SequenceTask
from reflora_cli.tasks.registry import TASKS, find_task

# name: columns, labels in the order of their ids, metrics
SEQUENCE = {
    "builtin/acceptability": ("sentence", "corrupted grammatical", "accuracy matthews"),
    "builtin/entailment": ("premise hypothesis", "entailment not_entailment", "accuracy"),
    "glue/cola": ("sentence", "unacceptable acceptable", "matthews"),
    "glue/sst2": ("sentence", "negative positive", "accuracy"),
    "glue/mrpc": ("sentence1 sentence2", "not_equivalent equivalent", "accuracy f1"),
    "glue/stsb": ("sentence1 sentence2", "", "pearson spearman"),
    "glue/qqp": ("question1 question2", "not_duplicate duplicate", "accuracy f1"),
    "glue/mnli": ("premise hypothesis", "entailment neutral contradiction", "accuracy"),
    "glue/qnli": ("question sentence", "entailment not_entailment", "accuracy"),
    "glue/rte": ("sentence1 sentence2", "entailment not_entailment", "accuracy"),
    "glue/wnli": ("sentence1 sentence2", "not_entailment entailment", "accuracy"),
}


# name: words that a generated answer may be
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


def test_these_tasks_and_no_other() -> None:
    language = {"builtin/questions", "instruct", "commonsense", *(f"commonsense/{name}" for name in COMMONSENSE)}
    assert set(TASKS) == {*SEQUENCE, *language}


@pytest.mark.parametrize("name", SEQUENCE)
def test_record(name: str) -> None:
    task = TASKS[name]
    assert isinstance(task, SequenceTask)
    columns, labels, metrics = SEQUENCE[name]
    assert (" ".join(task.text), " ".join(task.label_names), " ".join(task.metrics)) == (columns, labels, metrics)
    assert task.main_metric == metrics.split()[0]
    assert (task.label, task.train) == ("label", "train")
    if task.name == "glue/mnli":
        assert task.evaluation == ("validation_matched", "validation_mismatched")
    else:
        assert task.evaluation == ("validation",)
    family, short = name.split("/")
    own = HubSource("nyu-mll/glue", short) if family == "glue" else BuiltinSource(short)
    assert (task.source, task.short) == (own, short)


def test_only_stsb_is_regression() -> None:
    assert [name for name, task in TASKS.items() if isinstance(task, SequenceTask) and task.is_regression] == [
        "glue/stsb"
    ]
    stsb = find_task("glue/stsb")
    assert isinstance(stsb, SequenceTask)
    assert stsb.label_range == (0.0, 5.0)


@pytest.mark.parametrize("short", COMMONSENSE)
def test_commonsense_record(short: str) -> None:
    """The words that the reference looks for in a generated text, and the first that it finds."""
    task = find_task(f"commonsense/{short}")
    assert isinstance(task, PromptTask)
    words = COMMONSENSE[short].split()
    assert task.pattern == "|".join(words)
    assert (task.columns, task.evaluation) == (("instruction", "output", "answer", "input"), ("test",))
    assert task.parse(f"I think {words[1]}, not {words[0]}", ()) == words[1]
    assert task.parse(words[0].upper(), ()) is None


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
