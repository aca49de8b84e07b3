"""The commonsense prompts to the letter, and the original data sets' rows turned into LLM-Adapters' rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reflora_cli.data.load import load_prompts
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.commonsense import TASKS, example
from reflora_cli.tasks.prompts import LLM_ADAPTERS, LLM_ADAPTERS_EVALUATION, PLAIN
from reflora_cli.tasks.sources import HubSource

TRAINING = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.  \n\n"
    "                ### Instruction:\n                DO\n                \n                ### Response:\n"
    "                "
)
EVALUATION = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request. \n\n"
    "                ### Instruction:\n                DO\n\n                ### Response:\n                "
)
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request. \n\n"
    "                ### Instruction:\n                DO\n                \n                ### Input:\n"
    "                IN\n                \n                ### Response:\n                "
)


def test_prompts_are_the_references_to_the_letter() -> None:
    assert LLM_ADAPTERS.fill("DO", "") == TRAINING
    assert LLM_ADAPTERS.fill("DO", "IN") == WITH_INPUT
    assert LLM_ADAPTERS_EVALUATION.fill("DO", "") == EVALUATION
    assert PLAIN.fill("DO", "IN").endswith("request.\n\n### Instruction:\nDO\n\n### Input:\nIN\n\n### Response:\n")


def test_braces_in_a_text_are_left_alone() -> None:
    filled = PLAIN.fill("use {input} and {instruction}", "{0} {")
    assert "use {input} and {instruction}" in filled
    assert "{0} {" in filled


ORIGINAL: dict[str, tuple[dict[str, Any], str, str]] = {
    # task: a row as the hub has it, the instruction made of it, the answer
    "boolq": (
        {"question": "is salt a rock", "answer": True},
        "Please answer the following question with true or false, question: is salt a rock?\n\n"
        "Answer format: true/false",
        "true",
    ),
    "piqa": (
        {"goal": "Dry a cup", "sol1": "Use a cloth", "sol2": "Use a brick", "label": 0},
        "Please choose the correct solution to the question: Dry a cup\n\nSolution1: Use a cloth\n\n"
        "Solution2: Use a brick\n\nAnswer format: solution1/solution2",
        "solution1",
    ),
    "social_i_qa": (
        {"context": "Ann fell.", "question": "Why?", "answerA": "ran", "answerB": "sat", "answerC": "ate",
         "label": "3"},
        "Please choose the correct answer to the question: Ann fell. Why?\n\nAnswer1: ran Answer2: sat Answer3: ate\n\n"
        "Answer format: answer1/answer2/answer3",
        "answer3",
    ),
    "hellaswag": (
        {"activity_label": "Tea", "ctx": "She boils water. She", "endings": ["a", "b", "c", "d"], "label": "1"},
        "Please choose the correct ending to complete the given sentence: Tea: She boils water. She\n\n"
        "Ending1: a Ending2: b Ending3: c Ending4: d\n\nAnswer format: ending1/ending2/ending3/ending4",
        "ending2",
    ),
    "winogrande": (
        {"sentence": "Ann beat Sue as _ ran.", "option1": "Ann", "option2": "Sue", "answer": "1"},
        "Please choose the correct answer to fill in the blank to complete the given sentence: "
        "Ann beat Sue as _ ran.\n\nOption1: Ann Option2: Sue Answer format: option1/option2",
        "option1",
    ),
    "ARC-Easy": (
        {
            "question": "What is hot?",
            "choices": {"text": ["ice", "fire", "snow"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        },
        "Please choose the correct answer to the question: What is hot?\n\nAnswer1: ice Answer2: fire Answer3: snow\n\n"
        "Answer format: answer1/answer2/answer3",
        "answer2",
    ),
    "openbookqa": (
        {"question_stem": "A fire is", "choices": {"text": ["hot", "wet", "old", "low"], "label": list("ABCD")},
         "answerKey": "A"},
        "Please choose the correct answer to the question: A fire is\n\nAnswer1: hot Answer2: wet Answer3: old "
        "Answer4: low\n\nAnswer format: answer1/answer2/answer3/answer4",
        "answer1",
    ),
}  # fmt: skip


def converter(task: PromptTask) -> Callable[[Any], Any]:
    assert isinstance(task.source, HubSource)
    assert task.source.convert is not None
    return task.source.convert


@pytest.mark.parametrize("task", TASKS, ids=lambda task: str(task.short))
def test_original_rows_become_the_references(task: PromptTask) -> None:
    row, instruction, answer = ORIGINAL["ARC-Easy" if task.short == "ARC-Challenge" else task.short]
    assert isinstance(task.source, HubSource)
    assert set(task.source.columns) == set(row)
    assert converter(task)(row) == {
        "instruction": instruction,
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }


@pytest.mark.parametrize("label", ["", "7"])
def test_hidden_or_impossible_labels_are_refused(label: str) -> None:
    hellaswag = next(task for task in TASKS if task.short == "hellaswag")
    with pytest.raises(ValueError, match=r"literal|number"):
        converter(hellaswag)(ORIGINAL["hellaswag"][0] | {"label": label})


# What the original row of each task's first published test row is, read off its text.
FIRST: dict[str, dict[str, Any]] = {
    "boolq": {"question": "does ethanol take more energy make that produces", "answer": False},
    "social_i_qa": {
        "context": "Tracy didn't go home that evening and resisted Riley's attacks.",
        "question": "What does Tracy need to do before this?",
        "answerA": "make a new plan", "answerB": "Go home and see Riley", "answerC": "Find somewhere to go",
        "label": "3",
    },
    "winogrande": {
        "sentence": "Sarah was a much better surgeon than Maria so _ always got the easier cases.",
        "option1": "Sarah", "option2": "Maria", "answer": "2",
    },
    "ARC-Challenge": {
        "question": "An astronomer observes that a planet rotates faster after a meteorite impact. Which is the most "
        "likely effect of this increase in rotation?",
        "choices": {
            "text": [
                "Planetary density will decrease.", "Planetary years will become longer.",
                "Planetary days will become shorter.", "Planetary gravity will become stronger.",
            ],
            "label": ["A", "B", "C", "D"],
        },
        "answerKey": "C",
    },
}  # fmt: skip


@pytest.mark.parametrize("short", FIRST)
def test_conversion_gives_the_published_row(short: str, shared_data: Path) -> None:
    task = next(task for task in TASKS if task.short == short)
    published = json.loads((shared_data / "commonsense" / short / "test.json").read_text(encoding="utf-8"))[0]
    assert converter(task)(FIRST[short]) == published


SIZES = {
    "boolq": 3270, "piqa": 1838, "social_i_qa": 1954, "hellaswag": 1000, "winogrande": 1267, "ARC-Easy": 2376,
    "ARC-Challenge": 1172, "openbookqa": 500,
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS, ids=lambda task: str(task.short))
def test_published_rows_load_whole(task: PromptTask, shared_data: Path) -> None:
    examples = load_prompts(task, str(shared_data / "commonsense"), "test", None)
    assert len(examples) == SIZES[task.short]
    for row in examples:
        assert task.parse(row.answer, row.labels) == row.label
        assert row.answer in row.candidates
        assert row.answer == f"the correct answer is {row.label}"
        assert set(row.labels) <= set(task.pattern.split("|"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "answer9"}, "not among the candidates"),
        ({"output": "the correct answer is answer2"}, "does not end with"),
        ({"instruction": "What is it?"}, "does not end with its candidates"),
    ],
)
def test_rows_that_contradict_themselves(change: dict[str, str], message: str) -> None:
    row = {"instruction": "What?\n\nAnswer format: answer1/answer2", "output": "it is answer1", "answer": "answer1"}
    assert example(row).candidates == ("it is answer1", "it is answer2")
    with pytest.raises(ValueError, match=message):
        example(row | change)
