"""Turn what a language model is asked into token ids: prompts as they are, conversations by the chat template.

A conversation is asked up to its last answer, which a row of training has and a new question has not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from reflora_cli.data.chat_text import ChatTemplate
from reflora_cli.data.encode_prompts import token_ids
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.tasks.base import PromptExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def asked_ids(tokenizer: PreTrainedTokenizerBase, examples: Sequence[PromptExample]) -> list[list[int]]:
    """Return the token ids of each example's prompt, in their order. Raises InputError for a conversation that the
    chat template does not take.
    """
    places = [place for place, own in enumerate(examples) if own.conversation]
    if not places:
        return token_ids(tokenizer, [own.generation_prompt for own in examples])
    template = ChatTemplate(tokenizer)
    texts = [asked_text(template, examples[place].conversation) for place in places]
    found = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    others = [own.generation_prompt for own in examples if not own.conversation]
    plain = iter(token_ids(tokenizer, others) if others else [])
    chats = iter(found)
    return [list(next(chats if own.conversation else plain)) for own in examples]


def asked_text(template: ChatTemplate, conversation: str) -> str:
    """Return a conversation, up to its last answer, as text. Raises InputError."""
    values = json.loads(conversation)
    messages = values["messages"]
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    try:
        return template.put(asked, values["tools"], ask=True)
    except ValueError as error:
        raise InputError(Problem(str(error), "the tokenizer's chat template")) from error


def turn_ends(tokenizer: PreTrainedTokenizerBase, examples: Sequence[PromptExample]) -> list[int]:
    """Return the tokens that end an answer to any of the examples beside the end token: that of a turn."""
    end = ChatTemplate(tokenizer).end() if any(own.conversation for own in examples) else ""
    return [cast(int, tokenizer.convert_tokens_to_ids(end))] if end else []
