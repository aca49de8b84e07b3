"""Turn conversations into token ids, and find the places of what the assistant says.

The text of a whole conversation is tokenized at once, as transformers' `apply_chat_template` does it: without special
tokens beside those of the template. A token is supervised if it holds any character of a turn of the assistant.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, cast

import numpy as np

from reflora_cli.data.chat_text import ChatTemplate, ChatText
from reflora_cli.data.encode_prompts import (
    EncodedPrompts,
    PromptRow,
    Spans,
    encode_prompts,
    from_place,
    refuse_cut_answers,
    token_ids,
)
from reflora_cli.data.token_cache import Columns, as_array, joined, remembered, rows_of
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.tasks.chat_templates import EXPECTED, markers
from reflora_cli.tasks.examples import PromptExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 3
"""The number of conversations that a message describes; all are counted."""
EXCERPT = 60
"""The characters of a conversation that a message shows."""
BATCH = 256
"""Conversations per tokenizer call: they are many times longer than other rows."""


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[PromptExample], max_length: int, *, train_on_prompt: bool
) -> EncodedPrompts:
    """Tokenize prompts with answers as `encode_prompts` does, and conversations by the tokenizer's chat template.

    Where there are both, the prompts come first. Raises InputError when more than a twentieth of either has nothing to
    learn left, and for conversations that the template does not take.
    """
    chats = [example for example in examples if example.conversation]
    prompts = [example for example in examples if not example.conversation]
    if not chats:
        return encode_prompts(tokenizer, prompts, max_length, train_on_prompt=train_on_prompt)
    found = encode_chats(tokenizer, chats, max_length, train_on_prompt=train_on_prompt)
    if not prompts:
        return found
    others = encode_prompts(tokenizer, prompts, max_length, train_on_prompt=train_on_prompt)
    return EncodedPrompts(others.rows + found.rows, others.dropped + found.dropped)


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[PromptExample], max_length: int, *, train_on_prompt: bool
) -> EncodedPrompts:
    """Tokenize conversations and cut them to `max_length` tokens.

    What the assistant says is supervised, with `train_on_prompt` everything but the first token.
    """
    refuse_template(tokenizer)
    template = str(tokenizer.chat_template)
    # Some templates write the day on which they are filled in.
    key = ("chats", max_length, template, date.today() if "strftime_now" in template else "")
    columns = remembered(tokenizer, key, examples, lambda: tokenize(tokenizer, examples, max_length))
    ids = rows_of(columns["ids"], columns["lengths"])
    spans = rows_of(columns["spans"], columns["counts"])
    rows = [from_place(own, 1) if train_on_prompt else PromptRow(own, pairs(places))
            for own, places in zip(ids, spans, strict=True)]  # fmt: skip
    dropped = len(examples) - len(rows)
    refuse_cut_answers(dropped, len(examples), max_length)
    return EncodedPrompts(rows, dropped)


def asked_tokens(tokenizer: PreTrainedTokenizerBase, examples: Sequence[PromptExample]) -> list[list[int]]:
    """Return what a model reads when it is asked for the last answer of each example; no tokens for an empty prompt.

    Raises InputError for a conversation that the chat template does not take.
    """
    template, found = ChatTemplate(tokenizer), []
    for example in examples:
        if example.conversation:
            found.append(tokenizer(asked_text(template, example), add_special_tokens=False)["input_ids"])
        else:
            found.append(token_ids(tokenizer, [example.generation_prompt])[0])
    return found


def asked_text(template: ChatTemplate, example: PromptExample) -> str:
    """Return the text of a prompt. Raises InputError."""
    try:
        return template.asked(example.conversation)
    except ValueError as error:
        raise InputError(Problem(str(error), "the tokenizer's chat template")) from error


def turn_ends(tokenizer: PreTrainedTokenizerBase, examples: Sequence[PromptExample]) -> list[int]:
    """Return the token that ends a turn where any example is a conversation; none otherwise."""
    end = ChatTemplate(tokenizer).end() if any(own.conversation for own in examples) else ""
    return [cast(int, tokenizer.convert_tokens_to_ids(end))] if end else []


def pairs(flat: np.ndarray) -> Spans:
    """Return (begin, end) of each span from begin, end, begin, end, ..."""
    own = flat.tolist()
    return tuple(zip(own[::2], own[1::2], strict=True))


def tokenize(tokenizer: PreTrainedTokenizerBase, examples: Sequence[PromptExample], max_length: int) -> Columns:
    """Return `ids`, their `lengths`, `spans` as begin, end, begin, end, ... and their `counts`, of the conversations of
    which something to learn is left. Raises InputError for those that the chat template does not take.
    """
    texts = texts_of(tokenizer, examples)
    parts: list[Columns] = []
    for start in range(0, len(texts), BATCH):
        chunk = texts[start : start + BATCH]
        encoded = tokenizer(
            [own.text for own in chunk], add_special_tokens=False, return_offsets_mapping=True,
            return_attention_mask=False, verbose=False,
        )  # fmt: skip
        rows = zip(chunk, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        cut = [(ids[:max_length], shortened(spans_of(own, text.turns), max_length)) for text, ids, own in rows]
        parts.append(columns_of([(ids, spans) for ids, spans in cut if spans]))
    return joined(parts)


def columns_of(rows: Sequence[tuple[list[int], Spans]]) -> Columns:
    """Return the columns of rows that are kept, each its ids and its spans."""
    flat = [[place for span in spans for place in span] for _, spans in rows]
    return {
        "ids": as_array([ids for ids, _ in rows]),
        "lengths": np.array([len(ids) for ids, _ in rows], dtype=np.int32),
        "spans": as_array(flat),
        "counts": np.array(list(map(len, flat)), dtype=np.int32),
    }


def texts_of(tokenizer: PreTrainedTokenizerBase, examples: Sequence[PromptExample]) -> list[ChatText]:
    """Return the texts of conversations. Raises InputError for those that the chat template does not take."""
    template, problems, texts = ChatTemplate(tokenizer), [], []
    for number, example in enumerate(examples, start=1):
        try:
            texts.append(template.written(example.conversation))
        except ValueError as error:
            found = example.prompt[:EXCERPT] + ("..." if len(example.prompt) > EXCERPT else "")
            problems.append(Problem(str(error), f"conversation {number} of {len(examples):,}", repr(found)))
    if problems:
        raise refused(problems)
    return texts


def refused(problems: Sequence[Problem]) -> InputError:
    """Return the error with the first problems, and the number of the others."""
    remedy = "correct the conversations, or set task.template to chatml, plain or a file"
    first = [Problem(own.what, own.where, own.found, remedy=remedy) for own in problems[:SHOWN]]
    more = len(problems) - len(first)
    return InputError(*first, *([Problem(f"{more:,} more conversations have such problems")] if more else []))


def spans_of(offsets: Sequence[tuple[int, int]], turns: Sequence[tuple[int, int]]) -> Spans:
    """Return the places of the tokens that hold a character of a turn.

    offsets: the characters of each token. White space that a tokenizer leaves out of its offsets belongs to the token
    after it. Token 0 is never a place, as nothing predicts it.
    """
    begins, ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    reached = np.maximum.accumulate(np.concatenate([[0], ends]))[:-1]
    begins = np.minimum(begins, reached)
    chosen = np.zeros(len(ends) + 2, dtype=bool)  # with a place that is not chosen at either end
    for begin, end in turns:
        chosen[1:-1] |= (begins < end) & (ends > begin)
    chosen[1:2] = False
    borders = np.flatnonzero(chosen[1:] != chosen[:-1]).tolist()
    return tuple(zip(borders[::2], borders[1::2], strict=True))


def shortened(spans: Spans, length: int) -> Spans:
    """Return the places of spans in the first `length` tokens."""
    return tuple((begin, min(end, length)) for begin, end in spans if begin < length)


def refuse_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError for a tokenizer without a chat template, with one whose tokens it lacks, or without offsets."""
    where = "task.template"
    if not tokenizer.chat_template:
        remedy = "set task.template to chatml, llama3, plain or a file; plain works with every tokenizer"
        raise InputError(Problem("the tokenizer has no chat template", where, "null", EXPECTED, remedy))
    absent = [own for own in markers(str(tokenizer.chat_template)) if not is_token(tokenizer, own)]
    if absent:
        what = "the chat template uses special tokens that the tokenizer lacks, so answers would have no end token"
        remedy = "set task.template=plain, which ends answers with the tokenizer's own end token"
        raise InputError(Problem(what, where, f"absent: {', '.join(absent)}", "one token each", remedy))
    if not tokenizer.is_fast:
        what = "the tokenizer gives no character offsets of its tokens, which are needed to find the answers"
        raise InputError(Problem(what, "model.name", type(tokenizer).__name__, "a tokenizer with tokenizer.json"))


def is_token(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a text is read as one token."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1
