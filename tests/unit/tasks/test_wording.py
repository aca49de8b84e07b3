"""The wording of a prompt: columns in braces, braces that are written, and what stands before an answer."""

from __future__ import annotations

import pytest

from reflora_cli.tasks.prompts import Template
from reflora_cli.tasks.wording import AS_WRITTEN, Wording


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("{a} ||", "x{b}y ||"),
        ("Ask: {a b}\nTable: {c.d:e}\nA:", "Ask: one\nTable: \\1 {{\nA:"),
        ("{{{a}}} is {{a}}, and {a}", "{x{b}y} is {a}, and x{b}y"),
    ],
)
def test_columns_are_filled_in_and_braces_of_cells_are_left_alone(text: str, prompt: str) -> None:
    assert Wording(text).fill({"a": "x{b}y", "b": "never", "a b": "one", "c.d:e": "\\1 {{"}) == prompt


def test_columns_are_named_once_in_the_order_of_the_text() -> None:
    assert Wording("{b} {a} {{c}} {b}").columns == ("b", "a")


def test_what_is_written_comes_from_the_cell() -> None:
    assert Wording("{a}!", str.upper).fill({"a": "x"}) == "X!"


@pytest.mark.parametrize(
    ("text", "stray"),
    [("{a", "{a"), ("a} b", "} b"), ("{}", "{}"), ("{a} {{b}", "}"), ("{a\nb}", "{a\nb}"), ("{{a}} {b}", None)],
)
def test_a_brace_without_a_column_is_found(text: str, stray: str | None) -> None:
    assert Wording(text).stray == stray


def test_one_column_has_the_place_of_an_instruction() -> None:
    text = "Say {instruction}: "
    assert Wording("Say {{}} to {a}:").template == Template("Say {} to {instruction}:", "Say {} to {instruction}:")
    assert Wording("Say {a}: ").template == Template(text, text)


@pytest.mark.parametrize("text", ["{a} {b}", "{a} {a}", "no column", "{{instruction}} {a}"])
def test_other_wordings_are_asked_with_the_whole_prompt(text: str) -> None:
    assert Wording(text).template == AS_WRITTEN
    assert AS_WRITTEN.fill("whole", "") == "whole"


@pytest.mark.parametrize(("text", "lead"), [("{a} ||", " "), ("{a}:\n", ""), ("{a}: ", ""), ("{a}", " ")])
def test_a_space_stands_before_an_answer_unless_the_prompt_ends_with_one(text: str, lead: str) -> None:
    assert Wording(text).lead == lead
