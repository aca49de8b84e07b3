"""Chat templates by name, file and text: what they write, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from reflora_cli.ground.errors import InputError
from reflora_cli.recipe.files import dump_recipe
from reflora_cli.tasks.chat_templates import LARGEST, TEMPLATES, kept_template, markers, template_text
from reflora_cli.training.own_template import with_template
from tests.unit.recipe_texts import GOOD, load, put

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What?"},
    {"role": "assistant", "content": "It."},
    {"role": "user", "content": "Thanks."},
]
CHAT = ("task.name=chat", "task.kind=chat")


def written(name: str, messages: list[dict[str, Any]], *, ask: bool = True, tools: Any = None, bos: str = "<s>") -> str:
    (text,), _ = render_jinja_template(
        [messages], tools, chat_template=TEMPLATES[name], add_generation_prompt=ask, bos_token=bos, eos_token="</s>"
    )
    return str(text)


def test_whole_conversations_are_written_out() -> None:
    assert written("chatml", TALK) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nIt."
        "<|im_end|>\n<|im_start|>user\nThanks.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert written("plain", TALK) == "<s>Be brief.\n\nUser: What?\nAssistant: It.</s>\nUser: Thanks.\nAssistant:"
    start, end = "<|start_header_id|>", "<|end_header_id|>\n\n"
    assert written("llama3", TALK) == (
        f"<s>{start}system{end}Be brief.<|eot_id|>{start}user{end}What?<|eot_id|>{start}assistant{end}It.<|eot_id|>"
        f"{start}user{end}Thanks.<|eot_id|>{start}assistant{end}"
    )


def test_the_plain_template_begins_with_no_end_token() -> None:
    """GPT-2's begin and end are one token, which its tokenizer does not put before a text."""
    assert written("plain", TALK[1:2], bos="</s>") == "User: What?\nAssistant:"
    assert written("plain", TALK[1:2], bos="") == "User: What?\nAssistant:"


@pytest.mark.parametrize("name", TEMPLATES)
@given(texts=st.lists(st.text("ab \n'\"{}%\\", min_size=1, max_size=8), min_size=1, max_size=4))
def test_texts_are_written_as_they_are(name: str, texts: list[str]) -> None:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    whole = written(name, messages, ask=False)
    for text in texts:
        assert (text.strip() if name == "llama3" else text) in whole


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_beginning_that_asks_is_that_of_the_whole(name: str) -> None:
    assert written(name, TALK[:3], ask=False).startswith(written(name, TALK[:2]))


def test_chatml_writes_tools_and_their_calls() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    messages = [
        *TALK[:2],
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "3"},
    ]
    text = written("chatml", messages, tools=[tool])
    assert text.count("Be brief.") == 1
    assert '<tools>\n{"type": "function", "function": {"name": "f"}}\n</tools>' in text
    one = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    assert f"<|im_start|>assistant\n{one}\n{one}<|im_end|>" in text
    assert "<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>" in text
    for name in ("plain", "llama3"):
        with pytest.raises(Exception, match="no form for tools"):
            written(name, TALK, tools=[tool])
        with pytest.raises(Exception, match="no form for calls"):
            written(name, messages)


def test_markers_are_the_special_tokens_of_our_own_templates() -> None:
    assert markers(TEMPLATES["chatml"]) == ("<|im_start|>", "<|im_end|>")
    assert markers(TEMPLATES["llama3"]) == ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    assert markers(TEMPLATES["plain"]) == markers("{{ '<|im_end|>' }}") == ()


def test_a_run_keeps_names_and_the_text_of_files(tmp_path: Path) -> None:
    text = "{% for m in messages %}{{ '\t\"' + m.content + ' é\\n' }}{% endfor %}\n\n{# a note #}\n"
    file = put(tmp_path, text, "chat.jinja")
    assert kept_template("chatml") == "chatml"
    assert kept_template(str(file)) == kept_template(text) == text
    recipe = with_template(load(put(tmp_path, GOOD), *CHAT, f"task.template={file}"))
    again = put(tmp_path, dump_recipe(recipe), "again.yaml")
    assert yaml.safe_load(again.read_text(encoding="utf-8"))["task"]["template"] == text
    file.unlink()
    assert load(again) == recipe == with_template(load(again))
    assert with_template(load(put(tmp_path, GOOD))).task.template is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no template", "holds no chat template"),
        (b"{{ messages", "not valid Jinja"),
        (b"{{ \xff }}", "not UTF-8"),
        (b"{{ x }}" + b" " * LARGEST, "too large"),
    ],
)
def test_bad_files_are_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        template_text(str(put(tmp_path, content, "bad.jinja")))


def test_unknown_names_are_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'llama3'"):
        template_text("lama3")
    with pytest.raises(InputError, match="a file with a Jinja template"):
        template_text(str(tmp_path))
