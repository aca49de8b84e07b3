"""Turn a conversation into the tokens that a language model reads, as its training put them.

A run, or a recipe, says whether that was the tokenizer's chat template or the prompt of a task. A model directory is
asked by the chat template that its tokenizer carries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from reflora_cli.data.encode_prompts import token_ids
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.chat_template import ending, prompt_ids, reads, said
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.messages import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Prompting(ABC):
    """A way to ask. reads_history: whether earlier messages are read. reads_system: whether a system message is. ends:
    the tokens that end an answer beside the tokenizer's end token. note: what a user should know of it.
    """

    reads_history: bool = False
    reads_system: bool = False
    ends: tuple[int, ...] = ()
    note: str

    @abstractmethod
    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens to be continued by an answer to the last message. Raises InputError for messages that
        cannot be put so.
        """


@final
class ChatTemplate(Prompting):
    """The tokenizer's own template for conversations."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises InputError for a template that takes no question with its answer."""
        self.tokenizer = tokenizer
        with template_errors():
            end = ending(tokenizer)
        self.ends = () if end is None or end.token is None else (end.token,)
        self.reads_history = reads(tokenizer, [said("user", "a"), said("assistant", "b")])
        self.reads_system = reads(tokenizer, [said("system", "c")])
        others = "earlier messages are read too" if self.reads_history else "every message is read alone"
        self.note = f"messages are put into the tokenizer's chat template; {others}"

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        with template_errors():
            return prompt_ids(self.tokenizer, messages)


@contextmanager
def template_errors() -> Iterator[None]:
    """Turn a template's refusal of messages into an InputError."""
    try:
        yield
    except ValueError as error:
        what, remedy = "the chat template refuses these messages", "enter /reset, or /system without a text"
        raise InputError(Problem(what, "the tokenizer's chat template", str(error), remedy=remedy)) from error


@final
class TaskPrompt(Prompting):
    """The prompt of a task around the last message; nothing else is read."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, task: PromptTask, note: str) -> None:
        self.tokenizer, self.task, self.note = tokenizer, task, note

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        (ids,) = token_ids(self.tokenizer, [self.task.template.fill(messages[-1]["content"], "")])
        return ids


def prompting_of(tokenizer: PreTrainedTokenizerBase, task: PromptTask, *, has_prompt: bool) -> Prompting:
    """Return how a model is asked. has_prompt: whether the task says how training asked."""
    has_template = bool(tokenizer.chat_template)
    if has_template and (task.by_chat_template or not has_prompt):
        return ChatTemplate(tokenizer)
    alone = "every message is read alone, in"
    if not has_prompt:
        note = "the tokenizer has no chat template: every message is read alone and as it is (see --task)"
    elif has_template:
        note = f"training did not use the tokenizer's chat template: {alone} the prompt of {task.name}"
    else:
        note = f"the tokenizer has no chat template: {alone} the prompt of {task.name}"
    return TaskPrompt(tokenizer, task, note)
