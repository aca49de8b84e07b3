"""A Modelfile asks as the trained chat template does, or says why it does not."""

from __future__ import annotations

import re
from typing import Any

import pytest

from reflora_cli.export.ollama import conversation_of, literal, modelfile, trained_prompt
from reflora_cli.model.chat_template import ending
from tests.talking import FAMILIES, LAST_SYSTEM, Family, family_tokenizer, ollama_prompt

USER = [{"role": "user", "content": "What is {{ a }} cup?"}]
SYSTEM = [{"role": "system", "content": 'Be "brief".\n\n- Really.'}]
TURNS = [
    {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello <b>!"},
    {"role": "user", "content": "What {% then %}?"}, {"role": "assistant", "content": "Nothing.\nNo."},
    {"role": "user", "content": "é\n"[:1]},
]  # fmt: skip


def template_in(text: str) -> str:
    found = re.search(r'TEMPLATE """(.*?)"""\n', text, re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_ollama_writes_what_the_jinja_template_writes(name: str) -> None:
    family = FAMILIES[name]
    tokenizer: Any = family_tokenizer(family)
    file = modelfile("model.gguf", trained_prompt(tokenizer, "<s>" if family.bos else "", (family.end,)))
    template = template_in(file)
    conversations = [USER, TURNS[:3], TURNS, *([[*SYSTEM, *USER], [*SYSTEM, *TURNS]] if family.system else [])]
    for messages in conversations:
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        begin = "<s>" if family.bos else ""  # Ollama puts it there itself
        assert begin + ollama_prompt(template, messages) == expected
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert tokenizer(ollama_prompt(template, messages))["input_ids"] == ids
    assert f'PARAMETER stop "{family.end}"\n' in file
    assert ("SYSTEM" in file) == (name == "qwen")
    assert ("cuts white space" in file) == (name == "llama3")
    if name == "qwen":
        assert 'SYSTEM """You are helpful."""\n' in file
        default = [{"role": "system", "content": "You are helpful."}, *USER]
        assert ollama_prompt(template, default) == ollama_prompt(template, USER)
    if not family.system:
        assert ".System" not in template
    found = ending(tokenizer)
    assert found is not None
    assert (found.text, found.token) == (family.end, tokenizer.convert_tokens_to_ids(family.end))


DATED = "{{ strftime_now('%d') }}" + FAMILIES["chatml"].template
COUNTED = "{{ messages | length }}" + FAMILIES["chatml"].template
THINKING = FAMILIES["chatml"].template.replace(
    "message['content'] +", "(message['content'] if loop.last else message['content'] | upper) +"
)
DEAF = "{{ 'Hello' }}"
QUOTING = FAMILIES["chatml"].template.replace("'\\n' +", '\'\\n"""\' +')
REFUSING = "{{ raise_exception('never') }}"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (DATED, "present date"),
        (COUNTED, "depends on more than roles and texts"),
        (THINKING, "each message once"),
        (DEAF, "each message once"),
        (LAST_SYSTEM, "depends on more than roles and texts"),
        (QUOTING, "quotes that a Modelfile cannot"),
        (REFUSING, "does not take a plain conversation"),
    ],
)
def test_a_template_without_an_equal_is_left_out_with_the_reason(template: str, reason: str) -> None:
    family = FAMILIES["chatml"]
    tokenizer = family_tokenizer(Family(template, family.special, family.end))
    file = modelfile("model.gguf", trained_prompt(tokenizer, "", ("<|im_end|>",)))
    assert "\nTEMPLATE" not in file
    (comment,) = [line for line in file.splitlines() if "There is no TEMPLATE" in line]
    assert comment.startswith("# ")
    assert reason in comment
    assert 'PARAMETER stop "<|im_end|>"' in file


def test_braces_of_a_template_are_no_actions() -> None:
    assert ollama_prompt(literal("a {{ b }} {{{ c"), []) == "a {{ b }} {{{ c"


def test_a_default_system_message_is_told_apart_from_other_text() -> None:
    assert conversation_of(family_tokenizer(FAMILIES["qwen"])).system == "You are helpful."
    assert all(not conversation_of(family_tokenizer(FAMILIES[name])).system for name in FAMILIES if name != "qwen")
