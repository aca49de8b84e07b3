"""Check the messages of a conversation, and write them in one way.

A message has a `role` and a `content`, or as in ShareGPT's data `from` and `value`. One of the assistant may call tools
instead of saying something. Whether roles may follow each other as they do is the chat template's to say.
"""

from __future__ import annotations

import json
from typing import Any

from reflora_cli.ground.errors import nearest
from reflora_cli.tasks.examples import has_surrogates

Message = dict[str, Any]
"""A message with its `role`, which is one of the values of `ROLES`, its `content`, a text, and whatever else it has."""
ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
}
"""The roles by the names that data give them."""


def messages_of(values: object) -> list[Message]:
    """Return the messages of a conversation to learn from. Raises ValueError for one without messages, with a bad one,
    or that does not end with the assistant.
    """
    messages = said_so_far(values)
    if messages[-1]["role"] != "assistant":
        raise ValueError(
            f"the conversation ends with a message of the {messages[-1]['role']}, not with an answer to learn"
        )
    return messages


def said_so_far(values: object) -> list[Message]:
    """Return the messages of a conversation that may go on. Raises ValueError for none, and for a bad one."""
    if not isinstance(values, list):
        raise ValueError("the conversation is not a list of messages")
    if not values:
        raise ValueError("the conversation has no messages")
    return [message_of(value, f"message {number}") for number, value in enumerate(values, start=1)]


def message_of(value: object, name: str) -> Message:
    """Return one message; the parts of a content in several are joined. name: how errors call it. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object with role and content")
    # The columns of a parquet file give every message every key.
    given = {key: own for key, own in value.items() if own is not None}
    role, content = given.pop("role", given.pop("from", None)), given.pop("content", given.pop("value", None))
    if role is None:
        raise ValueError(f"{name} has no role")
    if not isinstance(role, str) or role not in ROLES:
        near = nearest(role, ROLES) if isinstance(role, str) else ""
        raise ValueError(f"{name} has the unknown role {role!r}" + (f"; {near}" if near else ""))
    calls = [call_of(call, name) for call in listed(given.pop("tool_calls", None), name)]
    if calls and ROLES[role] != "assistant":
        raise ValueError(f"{name} of the {ROLES[role]} calls tools, which only the assistant does")
    if content is None and not calls:
        raise ValueError(f"{name} has no content")
    content = content if content is None else text_in(content, name)
    if ROLES[role] == "assistant" and not calls and not (content or "").strip():
        raise ValueError(f"{name} of the assistant says nothing")
    if has_surrogates(content or ""):
        raise ValueError(f"{name} is not valid Unicode: it has lone surrogates")
    return {"role": ROLES[role], "content": content or "", **({"tool_calls": calls} if calls else {}), **given}


def text_in(content: object, name: str) -> str:
    """Return a content, which is a text or a list of parts that are texts. Raises ValueError for anything else."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"{name} has a content that is not a text, but of type {type(content).__name__}")
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    found = [text for text in texts if isinstance(text, str)]
    if len(found) < len(content):
        raise ValueError(f"{name} has a content with parts that are not texts: images and sounds cannot be learned")
    return "".join(found)


def listed(calls: object, name: str) -> list[Any]:
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise ValueError(f"{name} has tool_calls that are not a list")
    return calls


def call_of(call: object, name: str) -> dict[str, Any]:
    """Return a call of a tool, its arguments as an object where they are JSON text: templates write them as JSON."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"{name} calls a tool without a name: a call is an object with function: name, arguments")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise ValueError(f"{name} calls {function['name']} with arguments that are not JSON") from None
    named = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    others = {key: own for key, own in call.items() if own is not None and key not in (*named, *named["function"])}
    return {**named, **others}


def said(message: Message) -> str:
    """Return what a message says: its content, and the calls of tools as JSON."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join([*([message["content"]] if message["content"] else []), *calls])
