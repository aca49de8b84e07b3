"""The chat template that goes with a trained model writes the tokens of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import GenerationConfig, PreTrainedTokenizerFast

from reflora_cli.model.base import Base
from reflora_cli.model.chat_template import (
    ALONE,
    end_tokens,
    ending,
    own_template,
    prompt_of,
    reads,
    said,
    served_tokenizer,
    shared_wording,
)
from reflora_cli.model.sources import find_source
from reflora_cli.tasks.prompts import LLM_ADAPTERS, PLAIN
from reflora_cli.tasks.registry import find_task
from tests.talking import FAMILIES, Family, family_tokenizer
from tests.tokenizers import tiny_tokenizer

SPACE = "▁"


def pieces(scheme: str = "", *, after: str = "<s> $A", prepend: bool = False) -> PreTrainedTokenizerFast:
    """A SentencePiece-like tokenizer of single characters. scheme: when Metaspace puts a space before a text."""
    letters = sorted({SPACE, *"\n", *"".join((PLAIN.alone, LLM_ADAPTERS.alone)), *"What is a cup?"} - {" "})
    vocabulary = {piece: index for index, piece in enumerate(["<unk>", "<s>", "</s>", *letters])}
    own = Tokenizer(BPE(vocabulary, [], unk_token="<unk>"))
    if prepend:
        own.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    else:
        own.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
    own.post_processor = processors.TemplateProcessing(after, "$A $B", [("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


TOKENIZERS: dict[str, Any] = {
    "tiny": tiny_tokenizer,
    "bytes": lambda: family_tokenizer(FAMILIES["chatml"]),
    "bytes with a begin token": lambda: family_tokenizer(FAMILIES["llama3"]),
    "pieces, a space first": lambda: pieces("first"),
    "pieces, a space always": lambda: pieces("always"),
    "pieces, no space": lambda: pieces("never"),
    "pieces, prepended": lambda: pieces(prepend=True),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("wording", [PLAIN, LLM_ADAPTERS, ALONE])
def test_a_message_becomes_the_tokens_of_training(name: str, wording: Any) -> None:
    tokenizer: Any = TOKENIZERS[name]()
    template = own_template(tokenizer, wording)
    assert template is not None
    tokenizer.chat_template = template
    question = [{"role": "user", "content": "What is a cup?"}]
    found = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    assert found == tokenizer(wording.fill("What is a cup?", ""))["input_ids"]
    answered = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": "a cup"}], return_dict=False)
    assert answered[-1] == tokenizer.eos_token_id
    assert not reads(tokenizer, [said("system", "Be brief.")])
    assert reads(tokenizer, [said("user", "a"), said("assistant", "b")])


def test_there_is_no_template_for_what_none_can_write() -> None:
    """This tokenizer ends every text, and a prompt of a conversation must not end."""
    assert own_template(pieces("first", after="<s> $A </s>"), PLAIN) is None


def test_tasks_that_ask_in_several_ways_are_asked_without_a_prompt() -> None:
    assert shared_wording(find_task("instruct").parts) == PLAIN
    assert shared_wording(find_task(["instruct", "commonsense/boolq"]).parts) == ALONE


@pytest.mark.parametrize("name", FAMILIES)
def test_the_end_of_a_turn_is_found(name: str) -> None:
    family = FAMILIES[name]
    tokenizer = family_tokenizer(family)
    found = ending(tokenizer)
    assert found is not None
    assert (found.text, found.token) == (family.end, tokenizer.convert_tokens_to_ids(family.end))


def test_an_end_of_several_tokens_is_no_token() -> None:
    template = FAMILIES["chatml"].template.replace("<|im_end|>", "[end]")
    found = ending(family_tokenizer(Family(template, ("<|im_start|>",), "")))
    assert found is not None
    assert (found.text, found.token) == ("[end]", None)


class Generating:
    """A model of which only the generation config is asked for."""

    def __init__(self, ends: Any) -> None:
        self.generation_config = GenerationConfig(eos_token_id=ends)


@pytest.mark.parametrize(
    ("own", "by_template", "expected"),
    [(None, False, [1]), (None, True, [1, 3]), (1, False, [1]), (7, True, [7, 1, 3]), ([3, 1], True, [3, 1])],
)
def test_answers_end_with_the_turn_that_was_trained(own: Any, by_template: bool, expected: list[int]) -> None:
    tokenizer = family_tokenizer(FAMILIES["chatml"])
    model: Any = Generating(own)
    base = Base(model, tokenizer, find_source("builtin:tiny-llama", None), None, (), ())
    task = replace(find_task("instruct"), by_chat_template=by_template)  # type: ignore[type-var]
    assert end_tokens(base, task) == expected


def test_a_handed_over_tokenizer_is_the_base_s_with_the_template() -> None:
    model: Any = torch.nn.Module()
    used = tiny_tokenizer()
    used.chat_template = "{{ messages }}"
    used("a long text", truncation=True, max_length=2)
    base = Base(model, used, find_source("builtin:tiny-llama", None), None, (), ())
    prompted, classified = served_tokenizer(base, find_task("instruct")), served_tokenizer(base, find_task("glue/cola"))
    told = served_tokenizer(base, replace(find_task("instruct"), by_chat_template=True))  # type: ignore[type-var]
    assert "Instruction" in str(prompted.chat_template)
    assert classified.chat_template is None
    assert told.chat_template == "{{ messages }}"
    assert len(prompted("a long text")["input_ids"]) > 2


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ messages[9].content.x }}", "{{ raise_exception('no') }}"])
def test_whatever_a_template_fails_with_is_a_value_error(template: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=r"division|undefined|no"):
        prompt_of(tokenizer, [said("user", "a")])
    assert not reads(tokenizer, [said("user", "a")])
