"""The layouts of conversations: the same conversation is the same row in each, and what is none is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from reflora_cli.data.encode_chats import encode_examples
from reflora_cli.data.load import layout_in, load_prompts
from reflora_cli.ground.errors import InputError
from reflora_cli.tasks.chat import chat_task
from reflora_cli.tasks.examples import PromptExample
from tests.chat_tokenizers import tokenizer_of

TASK = chat_task("chat", "")
PAIRS = [("What is it?", "", "It is red."), ("Say it twice:", "red", "red red"), ("é?", "", "☕")]


def put(folder: Path, rows: list[dict[str, Any]], name: str = "train.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def read(path: Path) -> list[PromptExample]:
    return load_prompts(TASK, str(path), "train", None)


def tokens(examples: list[PromptExample]) -> list[tuple[list[int], Any]]:
    rows = encode_examples(tokenizer_of("chatml"), examples, 4000, train_on_prompt=False).rows
    return [(row.input_ids.tolist(), row.spans) for row in rows]


def asked(instruction: str, context: str) -> str:
    return f"{instruction}\n\n{context}" if context else instruction


def turns(role: str, content: str, names: tuple[str, str], pairs: list[tuple[str, str, str]]) -> list[Any]:
    user, assistant = names
    return [[{role: user, content: asked(i, c)}, {role: assistant, content: answer}] for i, c, answer in pairs]


LAYOUTS: dict[str, list[dict[str, Any]]] = {
    "messages": [{"messages": own} for own in turns("role", "content", ("user", "assistant"), PAIRS)],
    "messages in parts": [
        {"messages": [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in own]}
        for own in turns("role", "content", ("user", "assistant"), PAIRS)
    ],
    "conversations": [{"conversations": own} for own in turns("from", "value", ("human", "gpt"), PAIRS)],
    "conversations with roles": [
        {"conversations": own} for own in turns("role", "content", ("user", "assistant"), PAIRS)
    ],
    "instruction, output": [{"instruction": i, "input": c, "output": answer} for i, c, answer in PAIRS],
    "prompt, completion": [{"prompt": asked(i, c), "completion": answer} for i, c, answer in PAIRS],
    "lists of messages": [
        {"prompt": own[:1], "completion": own[1:]} for own in turns("role", "content", ("user", "assistant"), PAIRS)
    ],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_conversations_are_the_same_rows(name: str, tmp_path: Path) -> None:
    found = read(put(tmp_path, LAYOUTS[name]))
    assert found == read(put(tmp_path, LAYOUTS["messages"], "other.json"))
    lines = tmp_path / "train.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in LAYOUTS[name]), encoding="utf-8")
    assert read(lines) == found
    parquet.write_table(pa.Table.from_pylist(LAYOUTS[name]), tmp_path / "train.parquet")
    assert read(tmp_path / "train.parquet") == found
    assert [len(spans) for _, spans in tokens(found)] == [1, 1, 1]


def test_shared_files_of_three_layouts_are_the_same_rows(shared_data: Path) -> None:
    """Alpaca and ShareGPT hold the same questions; of the messages those rows that are one question and no system."""
    names = ("alpaca.json", "sharegpt.json", "messages.jsonl")
    alpaca, sharegpt, messages = (read(shared_data / "own" / "instructions" / name) for name in names)
    assert len(alpaca) == 175
    assert tokens(alpaca) == tokens(sharegpt)
    short = [index for index, row in enumerate(messages) if len(json.loads(row.conversation)["messages"]) == 2]
    assert len(short) == 93
    assert tokens([messages[index] for index in short]) == tokens([alpaca[index] for index in short])


def test_a_column_of_the_system_comes_first(tmp_path: Path) -> None:
    rows = [{**row, "system": "Answer briefly."} for row in LAYOUTS["instruction, output"]]
    told = [
        {"messages": [{"role": "system", "content": "Answer briefly."}, *row["messages"]]}
        for row in LAYOUTS["messages"]
    ]
    assert read(put(tmp_path, rows)) == read(put(tmp_path, told, "told.json"))
    same = [{**row, "system": None} for row in LAYOUTS["messages"]]
    assert read(put(tmp_path, same, "same.json")) == read(put(tmp_path, LAYOUTS["messages"], "m.json"))


def test_a_text_is_learned_whole_and_as_it_is(tmp_path: Path) -> None:
    (example,) = read(put(tmp_path, [{"text": "It is red."}]))
    tokenizer = tokenizer_of("chatml")
    (row,) = encode_examples(tokenizer, [example], 100, train_on_prompt=False).rows
    assert tokenizer.decode(row.input_ids) == f"It is red.{tokenizer.eos_token}"
    assert row.spans == ((1, len(row.input_ids)),)


def test_the_layout_is_told(tmp_path: Path) -> None:
    assert layout_in(str(put(tmp_path, LAYOUTS["lists of messages"])), TASK, "train") == "prompt, completion"
    assert layout_in(str(put(tmp_path, LAYOUTS["conversations"])), TASK, "train") == "conversations"


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no role": ({"messages": [{"content": "a"}, ANSWER]}, "message 1 has no role"),
    "unknown role": (
        {"messages": [{"role": "asistant", "content": "a"}, ANSWER]},
        "unknown role 'asistant'; did you mean 'assistant'",
    ),
    "role that is no text": ({"messages": [{"role": 1, "content": "a"}, ANSWER]}, "unknown role 1"),
    "no messages": ({"messages": []}, "has no messages"),
    "ends with a message of the user": ({"messages": [USER, ANSWER, USER]}, "ends with a message of the user"),
    "no content": ({"messages": [{"role": "user"}, ANSWER]}, "message 1 has no content"),
    "content without calls": ({"messages": [USER, {"role": "assistant", "content": None}]}, "message 2 has no content"),
    "content that is no text": (
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "a"}]}, ANSWER]},
        "parts that are not texts: images",
    ),
    "number": ({"messages": [{"role": "user", "content": float("nan")}, ANSWER]}, "not a text, but of type float"),
    "empty answer": ({"messages": [USER, {"role": "assistant", "content": " "}]}, "says nothing"),
    "message that is a text": ({"messages": ["a", ANSWER]}, "message 1 is not an object"),
    "messages that are a text": ({"messages": "a"}, "'messages' is not a list of messages"),
    "messages that are missing": ({"messages": None}, "'messages' is missing"),
    "surrogates": ({"messages": [{"role": "user", "content": "\ud800"}, ANSWER]}, "not valid Unicode"),
    "calls of the user": ({"messages": [{**CALL, "role": "user"}, ANSWER]}, "only the assistant does"),
    "calls that are a text": ({"messages": [USER, {**CALL, "tool_calls": "f"}]}, "tool_calls that are not a list"),
    "call without a name": (
        {"messages": [USER, {**CALL, "tool_calls": [{"function": {}}]}]},
        "calls a tool without a name",
    ),
    "call with broken arguments": (
        {"messages": [USER, {**CALL, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
        "arguments that are not JSON",
    ),
    "tools that are broken": ({"messages": [USER, ANSWER], "tools": "{"}, "'tools' is neither a list"),
    "tools that are no objects": ({"messages": [USER, ANSWER], "tools": ["f"]}, "not a list of objects"),
    "tools with a number that is none": (
        {"messages": [USER, ANSWER], "tools": [{"x": float("nan")}]},
        "is not finite",
    ),
    "two systems": (
        {"messages": [{"role": "system", "content": "a"}, USER, ANSWER], "system": "b"},
        "and a system message",
    ),
    "prompt and completion of two kinds": ({"prompt": "a", "completion": [ANSWER]}, "neither two texts nor two lists"),
    "system that is a number": ({"messages": [USER, ANSWER], "system": 3}, "'system' is not a text"),
    "empty text": ({"text": ""}, "'text' is missing"),
    "no layout": ({"question": "a", "answer": "b"}, "no known layout"),
    "misspelt column": ({"message": [USER, ANSWER]}, "is 'message' meant to be 'messages'?"),
    "two layouts": ({"messages": [USER, ANSWER], "text": "a"}, "match several layouts: messages | text"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_conversation_is_one_clear_problem(name: str, tmp_path: Path) -> None:
    row, words = BAD[name]
    with pytest.raises(InputError) as refused:
        read(put(tmp_path, [row]))
    (problem,) = refused.value.problems
    assert words in str(problem)


def test_files_of_mixed_layouts_and_without_rows_are_refused(tmp_path: Path) -> None:
    mixed = [LAYOUTS["messages"][0], LAYOUTS["instruction, output"][0]]
    with pytest.raises(InputError, match="several layouts"):
        read(put(tmp_path, mixed))
    with pytest.raises(InputError, match="there are no rows"):
        read(put(tmp_path, []))


def test_calls_are_written_in_one_way(tmp_path: Path) -> None:
    """Arguments as JSON text and as an object, and the null of other messages' keys, are the same row."""
    first = [USER, CALL, {"role": "tool", "content": "c", "name": "f"}, ANSWER]
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    null = {"name": None, "tool_calls": None}
    second = [{**USER, **null}, {**CALL, **null, "tool_calls": [call]}, {**first[2], "tool_calls": None}, ANSWER]
    tools = [{"type": "function", "function": {"name": "f"}}]
    rows = [{"messages": first, "tools": tools}, {"messages": second, "tools": json.dumps(tools)}]
    one, two = read(put(tmp_path, rows))
    assert one == two
    assert json.loads(one.conversation)["tools"] == tools
