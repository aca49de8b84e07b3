"""A model of conversations is asked by the chat template, about instructions and about rows of conversations."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reflora_cli.data.encode_chats import asked_tokens, turn_ends
from reflora_cli.data.read import table_of
from reflora_cli.ground.errors import InputError
from reflora_cli.objectives.pick import kind_of
from reflora_cli.tasks.chat import chat_task
from reflora_cli.tasks.examples import PromptExample
from reflora_cli.tasks.prompts import PLAIN, Template
from reflora_cli.tasks.registry import find_task
from tests.talking import FAMILIES, Family, family_tokenizer

TOKENIZER: Any = family_tokenizer(FAMILIES["chatml"])
INSTRUCT: Any = find_task("instruct")


def asked(task: Any, row: dict[str, str], wording: Template | None = None) -> PromptExample:
    (question,) = kind_of(task).asking(wording).questions(table_of([row], "here", tuple(row)))
    example = question.example
    assert isinstance(example, PromptExample)
    return example


@pytest.mark.parametrize(
    ("task", "row", "said"),
    [
        (chat_task("talk", ""), {"prompt": "Hi"}, "Hi"),
        (INSTRUCT.templated(""), {"instruction": "Add."}, "Add."),
        (INSTRUCT.templated(""), {"instruction": "Add.", "input": "1 2"}, "Add.\n\n1 2"),
    ],
)
def test_an_instruction_is_a_message_of_the_user(task: Any, row: dict[str, str], said: str) -> None:
    example = asked(task, row)
    messages = [{"role": "user", "content": said}]
    assert json.loads(example.conversation) == {"messages": messages, "tools": []}
    expected = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert asked_tokens(TOKENIZER, [example]) == [expected]
    assert turn_ends(TOKENIZER, [example]) == [TOKENIZER.convert_tokens_to_ids("<|im_end|>")]


def test_other_prompts_are_no_conversations() -> None:
    raw = asked(chat_task("talk", ""), {"prompt": "Hi"}, Template("{instruction}", "{instruction}\n{input}"))
    plain = asked(INSTRUCT, {"instruction": "Add."})
    assert (raw.conversation, plain.conversation) == ("", "")
    expected = [TOKENIZER("Hi")["input_ids"], TOKENIZER(PLAIN.fill("Add.", ""))["input_ids"]]
    assert asked_tokens(TOKENIZER, [raw, plain]) == expected
    assert turn_ends(TOKENIZER, [raw, plain]) == []


def test_a_template_that_refuses_a_question_is_said() -> None:
    tokenizer: Any = family_tokenizer(Family("{{ raise_exception('not now') }}", (), ""))
    with pytest.raises(InputError, match="not now"):
        asked_tokens(tokenizer, [asked(chat_task("talk", ""), {"prompt": "Hi"})])
