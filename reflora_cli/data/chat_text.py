"""Put a conversation into text by a tokenizer's chat template, and find in it what the assistant says.

A turn of the assistant is what the template writes after the prompt that it ends with when it asks for an answer
(`add_generation_prompt`), up to and with the token that ends a turn. It is found by putting the beginnings of the
conversation: those must be beginnings of the whole. A template that marks what is generated (`{% generation %}`) is
believed. Where a template writes an earlier turn otherwise than the last one, without its thoughts for example, the
turn ends with the first end token after its begin. What cannot be found so is refused, never guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

from reflora_cli.tasks.messages import Message

MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
THOUGHT = "</think>"
"""The end of what a reasoning model thinks; templates leave the thoughts of earlier turns out."""
READ = ("system", "developer", "user", "assistant")
"""The roles whose texts a template writes as they are; what tools return may become JSON."""


@dataclass(frozen=True)
class ChatText:
    """A conversation as text. turns: the characters (begin, end) of what the assistant says, in order."""

    text: str
    turns: tuple[tuple[int, int], ...]


class ChatTemplate:
    """A tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """The texts of the tokenizer's special tokens."""
        return special_texts(self.tokenizer)

    def written(self, conversation: str) -> ChatText:
        """Return the text of a PromptExample's conversation.

        Raises ValueError, with what the user should know, for one that the template does not take or does not write
        completely, and for one whose turns cannot be found in the text.
        """
        values = json.loads(conversation)
        messages, tools = values["messages"], values["tools"]
        text = self.put(messages, tools, ask=False)
        if tools and text == self.put(messages, [], ask=False):
            raise ValueError("the chat template leaves out the tools")
        for number, message in enumerate(messages, start=1):
            if message["role"] in READ and not is_in(message, text):
                raise ValueError(
                    f"the chat template leaves out the content of message {number}, of the {message['role']}"
                )
        turns = self.marked(messages, tools) if self.is_marked(tools) else self.found(messages, tools, text)
        return ChatText(text, tuple(turns))

    def asked(self, conversation: str) -> str:
        """Return the text that asks for the last answer of a conversation, or for one where it ends with a question.
        Raises ValueError.
        """
        values = json.loads(conversation)
        messages = values["messages"]
        asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
        return self.put(asked, values["tools"], ask=True)

    def put(self, messages: Sequence[Message], tools: Sequence[Any], *, ask: bool) -> str:
        """Return messages as text. ask: with the prompt for an answer. Raises ValueError."""
        try:
            with refusals():
                text: Any = self.tokenizer.apply_chat_template(
                    list(messages), tools=list(tools) or None, add_generation_prompt=ask, tokenize=False
                )
        except ValueError as error:
            raise ValueError(f"the chat template refuses the conversation: {error}") from error
        return str(text)

    def is_marked(self, tools: Sequence[Any]) -> bool:
        return MARKED.search(self.tokenizer.get_chat_template(tools=list(tools) or None)) is not None

    def marked(self, messages: Sequence[Message], tools: Sequence[Any]) -> list[tuple[int, int]]:
        """Return the turns that the template marks. Raises ValueError where they are not those of the assistant."""
        from transformers.utils.chat_template_utils import render_jinja_template

        named: dict[str, Any] = dict(self.tokenizer.special_tokens_map)
        template = self.tokenizer.get_chat_template(tools=list(tools) or None)
        found: Any = render_jinja_template(
            [list(messages)], list(tools) or None, chat_template=template, return_assistant_tokens_mask=True, **named
        )
        (text,), (places,) = found
        if len(places) != sum(message["role"] == "assistant" for message in messages):
            raise ValueError("the chat template does not mark each turn of the assistant as generated")
        return [(begin, self.with_end(text, begin, end)) for begin, end in places]

    def with_end(self, text: str, begin: int, end: int) -> int:
        """Return the end of a marked turn, with the special token that follows it where it holds none at its end."""
        inside = self.trimmed(text, begin, end)
        if any(text[begin:inside].endswith(own) for own in self.ends):
            return inside
        following = [own for own in self.ends if text.startswith(own, end)]
        return end + max(map(len, following), default=0)

    def found(self, messages: Sequence[Message], tools: Sequence[Any], text: str) -> list[tuple[int, int]]:
        """Return the turns of the assistant. Raises ValueError where the template does not let them be found."""
        turns: list[tuple[int, int]] = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            asked = self.put(messages[:index], tools, ask=True)
            if not text.startswith(asked):
                reason = "it writes the messages before that one differently when others follow"
                raise ValueError(f"message {index + 1} cannot be found in the output of the chat template: {reason}")
            is_last = index + 1 == len(messages)
            begin, answered = len(asked), text if is_last else self.put(messages[: index + 1], tools, ask=False)
            if text.startswith(answered) and len(answered) > begin:
                end = self.trimmed(text, begin, len(answered))
            else:
                end = self.first_end(text, begin, message, answered)
            if not is_in(message, text[begin:end]) or (turns and begin < turns[-1][1]):
                raise ValueError(
                    f"message {index + 1} is not at the place where the chat template prompts for an answer"
                )
            turns.append((begin, end))
        return turns

    def trimmed(self, text: str, begin: int, end: int) -> int:
        """Return the end of a turn without the white space that follows its last special token."""
        inside = begin + len(text[begin:end].rstrip())
        return inside if any(text[begin:inside].endswith(own) for own in self.ends) else end

    def first_end(self, text: str, begin: int, message: Message, answered: str) -> int:
        """Return where the first end token ends after `begin`. answered: the conversation up to this turn, which ends
        with that token. Raises ValueError where there is none, or the message itself holds special tokens.
        """
        endings = [own for own in self.ends if answered.rstrip().endswith(own)]
        if not endings or any(own in spoken for own in self.ends for spoken in words(message)):
            raise ValueError(
                "the chat template writes an answer differently when messages follow, so its end cannot be found"
            )
        end = max(endings, key=len)
        place = text.find(end, begin)
        if place < 0:
            raise ValueError("the chat template ends an answer differently when messages follow")
        return place + len(end)

    def end(self) -> str:
        """Return the special token that ends a turn of the assistant; empty where the template has none, or does not
        take the simplest of conversations.
        """
        question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
        try:
            text = self.put([question, answer], [], ask=False).rstrip()
        except ValueError:
            return ""
        return max((own for own in self.ends if text.endswith(own)), key=len, default="")


@contextmanager
def refusals() -> Iterator[None]:
    """Turn whatever a template fails with into a ValueError: it is a program that came with a model or a recipe."""
    from jinja2 import TemplateError

    try:
        yield
    except (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError) as error:
        raise ValueError(str(error)) from error


def special_texts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the texts of a tokenizer's special tokens."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(dict.fromkeys(own for own in (*tokenizer.all_special_tokens, *added) if own))


def words(message: Message) -> Iterable[str]:
    """Return all texts that a template may write of a message."""
    return (json.dumps(message, ensure_ascii=False), message["content"])


def is_in(message: Message, text: str) -> bool:
    """Whether a text holds what a message says, with or without its thoughts, and the names of the tools it calls."""
    content = message["content"].strip()
    said = content in text or content.rpartition(THOUGHT)[2].strip() in text
    return said and all(call["function"]["name"] in text for call in message.get("tool_calls", ()))
