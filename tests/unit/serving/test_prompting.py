"""A model is asked as it was trained: by the chat template, or by a task's prompt whatever template there is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.serving.prompting import ChatTemplate, TaskPrompt, prompting_of
from reflora_cli.tasks.instruct import INSTRUCT
from reflora_cli.tasks.prompts import PLAIN
from tests.talking import FAMILIES, Family, family_tokenizer

ASKED = [{"role": "user", "content": "What is a cup?"}]
TALKING = replace(INSTRUCT, by_chat_template=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_on_conversations_is_asked_by_its_template(name: str) -> None:
    family = FAMILIES[name]
    tokenizer: Any = family_tokenizer(family)
    found = prompting_of(tokenizer, TALKING, has_prompt=True)
    assert isinstance(found, ChatTemplate)
    assert found.tokens(ASKED) == tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)
    assert (found.reads_history, found.reads_system) == (True, family.system)
    assert found.ends == (tokenizer.convert_tokens_to_ids(family.end),)


def test_a_run_on_a_prompt_is_asked_by_it_whatever_template_there_is() -> None:
    tokenizer = family_tokenizer(FAMILIES["chatml"])
    found = prompting_of(tokenizer, INSTRUCT, has_prompt=True)
    assert isinstance(found, TaskPrompt)
    assert found.tokens([*ASKED, *ASKED]) == tokenizer(PLAIN.fill("What is a cup?", ""))["input_ids"]
    assert "training did not use the tokenizer's chat template" in found.note
    assert (found.reads_history, found.reads_system) == (False, False)
    assert found.ends == ()


def test_a_model_that_tells_no_prompt_is_asked_by_its_template_if_it_has_one() -> None:
    tokenizer: Any = family_tokenizer(FAMILIES["chatml"])
    assert isinstance(prompting_of(tokenizer, INSTRUCT, has_prompt=False), ChatTemplate)
    tokenizer.chat_template = None
    without = prompting_of(tokenizer, INSTRUCT, has_prompt=False)
    assert "alone and as it is" in without.note
    assert "no chat template" in prompting_of(tokenizer, INSTRUCT, has_prompt=True).note


def test_a_template_that_takes_no_conversation_is_refused() -> None:
    template = "{{ raise_exception('no answers here') }}"
    with pytest.raises(InputError, match="refuses these messages"):
        prompting_of(family_tokenizer(Family(template, (), "")), TALKING, has_prompt=True)


def test_messages_on_which_a_template_fails_by_itself_are_refused() -> None:
    found = prompting_of(
        family_tokenizer(Family("{{ 1 // (4 - messages | length) }}", (), "")), TALKING, has_prompt=True
    )
    with pytest.raises(InputError, match="refuses these messages"):
        found.tokens([*ASKED, *ASKED, *ASKED, *ASKED])
