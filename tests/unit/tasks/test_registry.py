"""Every task record: columns, labels, splits and metrics, as the hub's data sets have them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from reflora_cli.errors import InputError
from reflora_cli.tasks.base import BuiltinSource, HubSource, Task
from reflora_cli.tasks.registry import TASKS, find_task

# name: columns, labels in the order of their ids, metrics
EXPECTED = {
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


def test_these_tasks_and_no_other() -> None:
    assert set(TASKS) == set(EXPECTED)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_record(task: Task) -> None:
    columns, labels, metrics = EXPECTED[task.name]
    assert (" ".join(task.text), " ".join(task.label_names), " ".join(task.metrics)) == (columns, labels, metrics)
    assert task.main_metric == metrics.split()[0]
    assert (task.label, task.train) == ("label", "train")
    if task.name == "glue/mnli":
        assert task.evaluation == ("validation_matched", "validation_mismatched")
    else:
        assert task.evaluation == ("validation",)
    family, short = task.name.split("/")
    own = HubSource("nyu-mll/glue", short) if family == "glue" else BuiltinSource(short)
    assert (task.source, task.short) == (own, short)


def test_only_stsb_is_regression() -> None:
    assert [task.name for task in TASKS.values() if task.is_regression] == ["glue/stsb"]
    assert find_task("glue/stsb").label_range == (0.0, 5.0)


def test_score_has_the_main_metric_first_and_is_json() -> None:
    scores = find_task("glue/mrpc").score([1, 0, 1, 1], [1, 0, 0, 1])
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
