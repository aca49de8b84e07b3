"""Let the blocks of a model compute the tokens of several rows side by side, without the padding between them.

A batch comes as padded rows, [n, length]. Before the first block its tokens are put side by side, [1, tokens, width];
behind the last block they take their places again, and padding is zero there. So embeddings, positions, poolers and
heads see padded rows as ever, and all that a block computes token by token, nearly all of its cost, is computed for
tokens alone. Only attention looks across tokens, and for it they take their places too, with the mask of padded rows:
in one of two ways, `Way`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from reflora_cli.model.blocks import first_blocks
from reflora_cli.model.packed_attention import forget, use_packed_attention
from reflora_cli.model.packed_layout import UNDER_WAY, Layout

TOKENS = "packed_tokens"
"""The argument of a packed model with the flat places, int64 [tokens], of those places of a batch [n, length] that
hold a token; without it the model computes padding as ever."""


class Way(Enum):
    """Around what tokens take their places in padded rows within a block.

    FUNCTION: around the function of queries, keys and values alone, which models take from transformers. MODULE: around
    a whole attention module, projections included, where a model has code of its own.
    """

    FUNCTION = "function"
    MODULE = "module"


class Packing:
    """The packing of a model, in place until it is removed.

    One batch is under way at a time: its backward pass, which may compute blocks again, ends before the next begins.
    """

    def __init__(self, model: Any, way: Way) -> None:
        """Raises ValueError for a model without blocks, or one to which the way does not apply."""
        blocks = first_blocks(model)
        if blocks is None:
            raise ValueError("the model has no blocks")
        self.model, self.way = model, way
        self.own: Layout | None = None
        self.attention = str(model.config._attn_implementation)
        if way is Way.FUNCTION:
            use_packed_attention(model, self)
        around = attention_modules(blocks) if way is Way.MODULE else []
        self.handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(self.begin, with_kwargs=True),
            *(block.register_forward_pre_hook(self.enter, with_kwargs=True) for block in blocks),
            blocks[-1].register_forward_hook(self.leave),
            *(module.register_forward_pre_hook(self.take_places, with_kwargs=True) for module in around),
            *(module.register_forward_hook(self.give_up_places) for module in around),
        ]

    @property
    def layout(self) -> Layout | None:
        """The layout of the batch under way; None if it is not packed."""
        return UNDER_WAY.layout if torch.compiler.is_compiling() else self.own

    def remove(self) -> None:
        """Leave the model as it was."""
        for handle in self.handles:
            handle.remove()
        if self.way is Way.FUNCTION:
            forget(self.model)
            self.model.set_attn_implementation(self.attention)

    def begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Take the places of a batch's tokens, which are meant for no other."""
        rest = dict(kwargs)
        tokens = rest.pop(TOKENS, None)
        self.own = UNDER_WAY.layout = None if tokens is None else Layout(tokens, *rest["attention_mask"].shape)
        return args, rest

    def enter(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Pack what a block gets: its hidden states, and what belongs to the places of its queries and keys.

        Raises ValueError for a block that takes its hidden states in another form.
        """
        layout = self.layout
        if layout is None:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        packed = layout.packed(hidden)
        if not layout.is_packed(packed):
            raise ValueError("a block does not begin with hidden states [n, length, width]")
        changed = packed_positions(layout, kwargs) if self.way is Way.FUNCTION else {}
        return ((packed, *args[1:]), kwargs | changed) if args else (args, kwargs | changed | {"hidden_states": packed})

    def leave(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        """Unpack what the last block returns."""
        layout = self.layout
        if layout is None:
            return output
        return tuple(map(layout.unpacked, output)) if isinstance(output, tuple) else layout.unpack(output)

    def take_places(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Unpack what an attention module gets."""
        layout = self.layout
        if layout is None:
            return None
        return tuple(map(layout.unpacked, args)), {name: layout.unpacked(own) for name, own in kwargs.items()}

    def give_up_places(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        """Pack what an attention module returns."""
        layout = self.layout
        if layout is None:
            return output
        return tuple(map(layout.packed, output)) if isinstance(output, tuple) else layout.pack(output)


def packed_positions(layout: Layout, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments of a block, packed, with which attention turns queries and keys by their positions: of
    shape [n, length, ...], or [1, length, ...] for all rows alike, one by one or in tuples.
    """

    def packed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(packed(own) for own in value)
        if not isinstance(value, Tensor) or value.shape[:2] not in ((layout.rows, layout.length), (1, layout.length)):
            return value
        return layout.pack(value.expand(layout.rows, *value.shape[1:]))

    return {name: packed(kwargs[name]) for name in ("position_embeddings", "position_ids") if name in kwargs}


def attention_modules(blocks: nn.ModuleList) -> list[nn.Module]:
    """Return the innermost modules of blocks that are called attention. Raises ValueError where there are none."""

    def is_attention(module: nn.Module) -> bool:
        return "Attention" in type(module).__name__

    found = [
        module
        for module in blocks.modules()
        if is_attention(module) and not any(is_attention(own) for own in module.modules() if own is not module)
    ]
    if not found:
        raise ValueError("no module of the blocks is called attention")
    return found
