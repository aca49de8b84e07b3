"""How an exported language model is asked: as it was trained, by chat template, by Modelfile, in the card."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest

from reflora_cli.export.ollama import modelfile
from reflora_cli.export.prompting import Reader, Served, by_prompt
from reflora_cli.tasks.nlg import generation_task
from reflora_cli.tasks.prompts import LLM_ADAPTERS, PLAIN
from reflora_cli.tasks.registry import find_task
from reflora_cli.tasks.wording import Wording


def ask(name: Any, lead: str = "") -> Served:
    return by_prompt(find_task(name).parts, "</s>", Reader(begins=False, lead=lead))


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("instruct", PLAIN.fill("It's {odd}?", "")),
        ("commonsense/boolq", LLM_ADAPTERS.fill("It's {odd}?", "")),
        ("commonsense", LLM_ADAPTERS.fill("It's {odd}?", "")),
        ("builtin/questions", "Question: It's {odd}? Answer:"),
        (["instruct", "commonsense/boolq"], "It's {odd}?"),
    ],
)
def test_a_question_is_asked_as_in_training(name: Any, prompt: str) -> None:
    """To the letter, with the spaces at the ends of lines; a mixture of several prompts is asked as it is."""
    asked = ask(name)
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # as transformers and llama.cpp render
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "It's {odd}?"}]
    rendered = environment.from_string(asked.chat_template).render(messages=messages, eos_token="</s>")
    assert rendered == prompt
    lines = modelfile("model.gguf", asked.ollama)
    assert lines.startswith("FROM ./model.gguf\n")
    template = lines.partition('TEMPLATE """')[2].partition('"""')[0]
    assert template.replace("{{ .Prompt }}", "It's {odd}?") == prompt
    assert 'PARAMETER stop "</s>"' in lines
    assert "SYSTEM" not in lines
    assert prompt.replace("It's {odd}?", "{instruction}") in "\n".join(asked.card)


def test_answers_are_ended_and_begin_where_tokenizers_need_it() -> None:
    asked = ask("instruct", lead=" ")
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rendered = jinja2.Environment().from_string(asked.chat_template).render(messages=messages, eos_token="</s>")
    assert rendered == " " + PLAIN.fill("a", "") + "b</s>"


def test_further_input_has_a_prompt_of_its_own() -> None:
    text = "\n".join(ask("instruct").card)
    assert PLAIN.with_input in text
    assert "further input" not in "\n".join(ask("builtin/questions").card)


def test_an_adapter_goes_onto_its_base() -> None:
    assert modelfile("base.gguf", ask("instruct").ollama, adapter="adapter.gguf").startswith(
        "FROM ./base.gguf\nADAPTER ./adapter.gguf\nTEMPLATE"
    )


def test_a_prompt_of_several_columns_is_shown_and_written_whole_by_the_user() -> None:
    task = generation_task("own", Wording("Table: {table}\nQuestion: {question}\nSQL:"))
    asked = by_prompt([task], "<eos>", Reader(begins=False))
    assert "Question: {question}" in asked.card
    assert not any("further input" in line for line in asked.card)
    assert 'TEMPLATE """{{ .Prompt }}"""' in modelfile("x.gguf", asked.ollama)
