"""Let the last block of an encoder compute only the first place of each row, as soon as its attention has ended.

In models that are built as BERT is, all that a block does behind its attention is done place by place. Where the head
reads the first place only, as BERT's and RoBERTa's do, the other places of the last block change nothing, and they are
most of that block's cost: its feed-forward layers and the projection of its attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

END = "SelfOutput"
"""How transformers ends the names of the classes with which attention ends in such models. They take what attention
has found and the block's input, both [n, length, width], and add them."""


def end_of_attention(model: nn.Module) -> nn.Module | None:
    """Return the module with which the attention of a model's last block ends; None where a model has no such
    module.
    """
    found = [module for module in model.modules() if type(module).__name__.endswith(END)]
    return found[-1] if found else None


@contextmanager
def narrowed(end: nn.Module) -> Iterator[None]:
    """Give the module the first place of each row only."""
    handle = end.register_forward_pre_hook(first_places)
    try:
        yield
    finally:
        handle.remove()


def narrow_training(end: nn.Module) -> None:
    """Give the module the first place of each row only, from now on, wherever the module is in training mode.

    What a pass for the gradients leaves out, activations that are computed again leave out too: the mode tells them.
    """
    end.register_forward_pre_hook(first_places_in_training)


def first_places(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the module's arguments [n, length, width] as [n, 1, width], in memory of their own."""
    return tuple(own[:, :1].contiguous() if isinstance(own, Tensor) else own for own in given)


def first_places_in_training(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Return `first_places` in training mode; None, which changes nothing, in evaluation."""
    return first_places(module, given) if module.training else None
