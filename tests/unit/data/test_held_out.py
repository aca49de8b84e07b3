"""Rows held out of one file: stratified, the same every time, and never the last of a label."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflora_cli.data.held_out import divided, divided_prompts, held_out_rows, strata
from reflora_cli.ground.errors import InputError
from reflora_cli.tasks.base import OwnLabels, SequenceTask
from reflora_cli.tasks.examples import Example, PromptExample
from reflora_cli.tasks.own import own_task

LABELS = [0.0] * 60 + [1.0] * 30 + [2.0] * 9 + [3.0]


def task(kind: str, labels: tuple[str, ...]) -> SequenceTask:
    return own_task(kind, kind, ["text"], labels, OwnLabels(("label",)), None)


def test_each_label_has_its_share() -> None:
    held = held_out_rows(LABELS, "10%", "x.csv")
    assert Counter(LABELS[index] for index in held) == {0.0: 6, 1.0: 3, 2.0: 1}


def test_the_rows_are_these_in_every_run() -> None:
    """They are a part of what a run is: another list would change the validation rows of runs that exist."""
    assert sorted(held_out_rows([0.0] * 12 + [1.0] * 8, 5, "x.csv")) == [0, 7, 8, 12, 18]
    assert held_out_rows(LABELS, 20, "x.csv") == held_out_rows(LABELS, "20%", "y.csv")


def test_rows_are_not_the_first_of_the_file() -> None:
    held = held_out_rows([0.0] * 1000, "20%", "x.csv")
    assert len(held) == 200
    assert 60 < sum(index < 500 for index in held) < 140


@given(st.lists(st.integers(0, 4).map(float), min_size=2, max_size=60), st.data())
@settings(max_examples=60, deadline=None)
def test_as_many_rows_as_asked_for_and_one_of_each_label_stays(labels: list[float], data: st.DataObject) -> None:
    most = len(labels) - len(set(labels))
    if not most:
        return
    count = data.draw(st.integers(1, most))
    held = held_out_rows(labels, count, "x.csv")
    assert len(held) == count
    assert {labels[index] for index in range(len(labels)) if index not in held} == set(labels)


@pytest.mark.parametrize("wanted", [97, "99%"])
def test_too_many_are_refused(wanted: int | str) -> None:
    with pytest.raises(InputError, match="at most 96"):
        held_out_rows(LABELS, wanted, "x.csv")


def test_both_parts_keep_the_order_of_the_file_and_are_all_of_it() -> None:
    examples = [Example((f"{index:03}",), label) for index, label in enumerate(LABELS)]
    training, held = divided(examples, task("classification", tuple("abcd")), "20%", "x.csv")
    assert (len(training), len(held)) == (80, 20)
    assert sorted(training, key=lambda row: row.texts) == training
    assert sorted(held, key=lambda row: row.texts) == held
    assert {row.texts for row in training} | {row.texts for row in held} == {row.texts for row in examples}


def test_all_rows_with_one_prompt_are_on_the_same_side() -> None:
    examples = [PromptExample(f"p{index % 40}", f" a{index}", f"p{index % 40}") for index in range(100)]
    training, held = divided_prompts(examples, "10%", "x.csv")
    own = [{example.prompt for example in part} for part in (training, held)]
    assert (len(own[0]), len(own[1]), own[0] & own[1]) == (36, 4, set())
    assert [example for example in examples if example.prompt in own[1]] == held
    assert [example for example in examples if example.prompt in own[0]] == training
    numbered = held_out_rows([0.0] * 40, 4, "x.csv")
    assert own[1] == {f"p{index}" for index in numbered}


def test_one_prompt_cannot_be_divided() -> None:
    with pytest.raises(InputError, match="at most 0: a row stays"):
        divided_prompts([PromptExample("p", " a", "p")] * 5, 1, "x.csv")


def test_several_labels_count_by_their_rarest_and_numbers_all_alike() -> None:
    several = [Example(("x",), label) for label in ((1.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 0.0))]
    assert strata(several, task("multilabel", ("a", "b"))) == [0.0, 1.0, 0.0, -1.0]
    numbers = [Example(("x",), label) for label in (0.5, 1.0, 2.0)]
    assert strata(numbers, task("regression", ())) == [0.0, 0.0, 0.0]
