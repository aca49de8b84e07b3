"""Check that a model and its tokenizer fit each other, before anything that takes long.

Everything that happens to a row before the model's first block is checked on the CPU, where an index out of range is an
ordinary error: on a GPU it would end the process. A pass up to that block costs next to nothing, however large the
model is.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.base import Base, positions
from reflora_cli.model.blocks import first_blocks
from reflora_cli.model.sources import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TYPES = "token_type_ids"


class FirstBlockReached(Exception):
    """Raised to end a forward pass at the model's first block."""


def check_tokens(config: Any, tokenizer: PreTrainedTokenizerBase, source: Source) -> None:
    """Raises InputError for a tokenizer with tokens for which a model of this config has no embedding."""
    embedded = getattr(config.get_text_config(decoder=True), "vocab_size", None)
    tokens = 1 + max(len(tokenizer) - 1, *tokenizer.added_tokens_decoder, tokenizer.pad_token_id)
    if isinstance(embedded, int) and tokens > embedded:
        problem = Problem(
            "the tokenizer has more tokens than the model has embeddings",
            where=f"model.name: {source.name}",
            found=f"{tokens} tokens, {embedded} embeddings",
            remedy="remove the added tokens from the tokenizer's files, or resize the model's embeddings "
            "(model.resize_token_embeddings) and save both",
        )
        raise InputError(problem)


def leave_out_types(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the tokenizer return token types only where the model takes them and knows all types of a pair of texts."""
    if TYPES not in tokenizer.model_input_names:
        return
    takes = TYPES in inspect.signature(model.forward).parameters
    known = getattr(model.config, "type_vocab_size", None)
    largest = max(tokenizer("a", "b").get(TYPES, ()), default=0)
    if not takes or (isinstance(known, int) and known <= largest):
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != TYPES]


def check_length(base: Base, max_length: int) -> None:
    """Raises InputError when a row of `task.max_length` tokens is longer than the model's positions allow."""
    limit = positions(base)
    if max_length <= limit and (error := failure(base, max_length)):
        limit = longest_read(base, max_length)
        if limit < 1:
            where, found = f"model.name: {base.source.name}", f"{type(error).__name__}: {error}"
            raise InputError(Problem("the model cannot process rows of its tokenizer", where, found)) from error
    if max_length > limit:
        expected = f"at most {limit}, the positions of {base.source.name}"
        raise InputError(
            Problem("task.max_length is larger than the model allows", "task.max_length", str(max_length), expected)
        )


def longest_read(base: Base, too_long: int) -> int:
    """Return the largest number of tokens, below `too_long`, that the model's embeddings take; 0 where they take
    none.
    """
    low, high = 0, too_long
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if failure(base, middle) else (middle, high)
    return low


@torch.no_grad()
def failure(base: Base, length: int) -> Exception | None:
    """Return the error that a row of so many tokens, behind those that are reserved, causes before the model's first
    block (or its end, without blocks).
    """
    model: Any = base.model
    ids = ordinary_tokens(base, length + base.reserved)[None]
    cache = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    try:
        with stopping_before_blocks(model):
            model(input_ids=ids, attention_mask=torch.ones_like(ids), **cache)
    except FirstBlockReached:
        return None
    except (IndexError, RuntimeError, ValueError) as error:
        return error
    return None


def ordinary_tokens(base: Base, count: int) -> torch.Tensor:
    """Return ids [count], int64, from all over the vocabulary, without special tokens."""
    tokenizer = base.tokenizer
    special = set(tokenizer.all_special_ids)
    step = max(1, len(tokenizer) // 1000)
    ids = [token for token in range(0, len(tokenizer), step) if token not in special] or [0]
    return torch.tensor(ids).repeat(-(-count // len(ids)))[:count]


@contextmanager
def stopping_before_blocks(model: nn.Module) -> Iterator[None]:
    """End a forward pass by FirstBlockReached where the model's repeated blocks begin."""
    blocks = first_blocks(model)
    handle = None if blocks is None else blocks[0].register_forward_pre_hook(stop)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def stop(*_: object) -> None:
    raise FirstBlockReached
