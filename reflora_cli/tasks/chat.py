"""Conversations: rows of messages, which the tokenizer's chat template puts into text.

Five layouts of a file are known, by the names of its columns: `messages` as in OpenAI's and TRL's data, `conversations`
as in ShareGPT's, `instruction`, `input` and `output` as in Alpaca's, `prompt` and `completion`, and `text`. In all of
them but the last a row becomes one list of messages, so that the same conversation is the same row in each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from reflora_cli.tasks.base import Answers, Layout, PromptTask
from reflora_cli.tasks.examples import PromptExample, Row
from reflora_cli.tasks.messages import Message, messages_of, said, said_so_far
from reflora_cli.tasks.prompts import Template

ASKED = Template("{instruction}", "{instruction}\n\n{input}")
"""The text of a user's turn."""


def conversation_example(messages: Sequence[Message], tools: object = None) -> PromptExample:
    """Return the row of a conversation. Raises ValueError for tools that are no list of objects."""
    prompt = "\n".join(map(said, messages[:-1]))
    return PromptExample(prompt, said(messages[-1]), prompt, conversation=conversation_text(messages, tools))


def conversation_text(messages: Sequence[Message], tools: object) -> str:
    """Return the JSON of a conversation. Raises ValueError for tools that are no list of objects."""
    known = tools_of(tools)
    try:
        return json.dumps({"messages": list(messages), "tools": known}, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise ValueError("a number among the tools or the calls of tools is not finite") from None


def asked_example(system: str, asked: str, answer: str) -> PromptExample:
    """Return the row of one question with its answer. system: what stands before them; nothing if it is empty."""
    before = [{"role": "system", "content": system}] if system else []
    turns = [*before, {"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return conversation_example(messages_of(turns))


def tools_of(value: object) -> list[dict[str, Any]]:
    """Return the tools of a row, which are a list or the JSON text of one. Raises ValueError for anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except (ValueError, RecursionError):
            raise ValueError("'tools' is neither a list nor the JSON text of one") from None
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise ValueError("'tools' is not a list of objects")
    return value


def in_order(row: Row, messages: list[Message]) -> list[Message]:
    """Return the messages of a row, the text of its `system` column first. Raises ValueError for two of the system."""
    system = row.get("system")
    if not system:
        return messages
    if messages[0]["role"] == "system":
        raise ValueError("the row has both a 'system' column and a system message")
    return [{"role": "system", "content": system}, *messages]


def from_messages(row: Row) -> PromptExample:
    return conversation_example(in_order(row, messages_of(row["messages"])), row.get("tools"))


def asked_messages(row: Row) -> PromptExample:
    """Return what the assistant is to answer: the `messages` of a row, without an answer that they end with."""
    messages = in_order(row, said_so_far(row["messages"]))
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    if not asked:
        raise ValueError("there is no message to answer")
    prompt = "\n".join(map(said, asked))
    return PromptExample(prompt, "", prompt, conversation=conversation_text(asked, row.get("tools")))


def from_conversations(row: Row) -> PromptExample:
    return conversation_example(in_order(row, messages_of(row["conversations"])), row.get("tools"))


def from_instruction(row: Row) -> PromptExample:
    return asked_example(row.get("system") or "", ASKED.fill(row["instruction"], row.get("input") or ""), row["output"])


def from_completion(row: Row) -> PromptExample:
    """Return the row of a prompt with its completion: two texts, or two lists of messages."""
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        return asked_example(row.get("system") or "", prompt, completion)
    if not isinstance(prompt, list) or not isinstance(completion, list):
        raise ValueError("'prompt' and 'completion' are neither two texts nor two lists of messages")
    return conversation_example(in_order(row, messages_of([*prompt, *completion])), row.get("tools"))


def from_text(row: Row) -> PromptExample:
    """Return a row that is learned whole, and as it is."""
    return PromptExample("", row["text"], "")


LAYOUTS = (
    Layout("messages", {"messages": list}, from_messages, ("system",), ("tools",)),
    Layout("conversations", {"conversations": list}, from_conversations, ("system",), ("tools",)),
    Layout("instruction, output", {"instruction": str, "output": str}, from_instruction, ("input", "system")),
    Layout("prompt, completion", {"prompt": object, "completion": object}, from_completion, ("system",), ("tools",)),
    Layout("text, learned whole and without a template", {"text": str}, from_text),
)


ASKING = Layout("messages", {"messages": list}, asked_messages, ("system",), ("tools",))
"""Conversations that a trained model is to continue."""


def chat_task(name: str, chat_template: str, held_out: int | str | None = None) -> PromptTask:
    """Return the task of learning conversations. chat_template: the text of a template, instead of the tokenizer's.
    held_out: the training rows that are scored instead, as a number or a share; None: they have a file of their own.
    """
    return PromptTask(
        name=name,
        source=None,
        fields={"prompt": str},
        example=from_completion,
        template=ASKED,
        answers=Answers.LOSS,
        evaluation=("validation",),
        layouts=LAYOUTS,
        by_chat_template=True,
        chat_template=chat_template,
        held_out=held_out,
    )
