"""Turn a conversation into the tokens that a language model reads.

The tokenizer's chat template is used where there is one, and otherwise the prompt of a task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from reflora_cli.data.encode_prompts import token_ids
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.tasks.base import PromptTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]
"""What was said: its `role`, which is system, user or assistant, and its `content`."""


class Prompting(ABC):
    """A way to ask. reads_history: whether earlier messages and a system message are read. note: what a user should
    know of it.
    """

    reads_history: bool
    note: str

    @abstractmethod
    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens to be continued by an answer to the last message. Raises InputError for messages that
        cannot be put so.
        """


@final
class ChatTemplate(Prompting):
    """The tokenizer's own template for conversations."""

    reads_history = True
    note = "asked by the tokenizer's chat template; earlier messages are read too"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        from jinja2 import TemplateError

        try:
            found: Any = self.tokenizer.apply_chat_template(
                [dict(own) for own in messages], add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except (TemplateError, TypeError, ValueError) as error:
            what, remedy = "the chat template does not take these messages", "/reset, or /system without a text"
            raise InputError(Problem(what, "the tokenizer's chat template", str(error), remedy=remedy)) from error
        return [int(token) for token in found]


@final
class TaskPrompt(Prompting):
    """The prompt of a task around the last message; nothing else is read."""

    reads_history = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase, task: PromptTask, name: str) -> None:
        self.tokenizer, self.task = tokenizer, task
        self.note = f"the tokenizer has no chat template: every message is asked alone, by {name}"

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        (ids,) = token_ids(self.tokenizer, [self.task.template.fill(messages[-1]["content"], "")])
        return ids


def prompting_of(tokenizer: PreTrainedTokenizerBase, task: PromptTask, *, has_prompt: bool) -> Prompting:
    """Return how a model is asked. has_prompt: whether the task's prompt is that of training."""
    if tokenizer.chat_template:
        return ChatTemplate(tokenizer)
    return TaskPrompt(tokenizer, task, f"the prompt of {task.name}" if has_prompt else "its text as it is (see --task)")
