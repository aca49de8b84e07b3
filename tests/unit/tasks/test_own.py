"""Tasks that a recipe describes."""

from __future__ import annotations

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.tasks.base import OwnLabels
from reflora_cli.tasks.own import METRICS, own_task

OWN = OwnLabels(("label",))


@pytest.mark.parametrize(("labels", "expected"), [(("a", "b"), True), (("a", "b", "c"), False)])
def test_matthews_is_a_score_of_two_classes(labels: tuple[str, ...], expected: bool) -> None:
    assert ("matthews" in own_task("classification", "x", ["text"], labels, OWN, None).metrics) is expected


@pytest.mark.parametrize("kind", METRICS)
def test_the_metric_that_is_chosen_comes_first_and_no_other_is_lost(kind: str) -> None:
    labels = () if kind == "regression" else ("a", "b")
    usual = own_task(kind, "x", ["text"], labels, OWN, None)
    for metric in usual.metrics:
        task = own_task(kind, "x", ["text"], labels, OWN, metric)
        assert task.main_metric == metric
        assert set(task.metrics) == set(usual.metrics)


@pytest.mark.parametrize(("kind", "labels"), [("regression", ()), ("classification", ("a", "b", "c"))])
def test_a_metric_of_other_tasks_is_refused(kind: str, labels: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="scored"):
        own_task(kind, "x", ["text"], labels, OWN, "matthews")
