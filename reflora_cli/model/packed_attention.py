"""Compute attention for packed tokens by transformers' own functions: row by row, in the places that padded rows have.

A function for each of theirs is registered with transformers under a name of its own. A model that uses it makes the
masks of padded rows; queries, keys and values come packed, take their places, and the result is packed again. What
comes in padded rows goes through unchanged, so that a model may be used with and without packing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from reflora_cli.model.packed_layout import UNDER_WAY, Layout

if TYPE_CHECKING:
    from reflora_cli.model.packing import Packing

Attention = Callable[..., tuple[Tensor, Tensor | None]]
PREFIX = "reflora_packed_"
INNER = ("sdpa", "eager")
"""The functions of transformers that are computed around packed tokens; others see to padding by themselves."""
_packings: WeakKeyDictionary[nn.Module, ReferenceType[Packing]] = WeakKeyDictionary()
"""The packing of the model that a module is in. The model's hooks keep it: kept here, it would keep the model."""
_eager: dict[str, Attention] = {}
"""The function `eager` of an architecture, by the name of the file that has it: every architecture has its own."""


def plain_name(implementation: str) -> str:
    """Return transformers' own name of what computes attention under a name of ours."""
    return implementation.removeprefix(PREFIX)


def use_packed_attention(model: Any, packing: Packing) -> None:
    """Let a model's attention be computed for packed tokens. Raises ValueError for a model that does not take its
    attention from transformers' functions.
    """
    inner = plain_name(str(model.config._attn_implementation))
    if inner not in INNER or not model._can_set_attn_implementation():
        raise ValueError(f"attention is computed by {inner}, or by code of the model itself")
    register(inner)
    model.set_attn_implementation(PREFIX + inner)
    for module in model.modules():
        _packings[module] = ref(packing)
        if own := getattr(sys.modules.get(type(module).__module__), "eager_attention_forward", None):
            _eager[type(module).__module__] = own


def forget(model: nn.Module) -> None:
    """Compute attention in a model's modules as if it had never been packed."""
    for module in model.modules():
        _packings.pop(module, None)


def register(inner: str) -> None:
    """Tell transformers of the function, and that its masks are those of the inner one."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    own = attend_eagerly if inner == "eager" else partial(attend, AttentionInterface()[inner])
    AttentionInterface.register(PREFIX + inner, own)
    AttentionMaskInterface.register(PREFIX + inner, ALL_MASK_ATTENTION_FUNCTIONS[inner])


def attend(
    compute: Attention,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **rest: Any,
) -> tuple[Tensor, Tensor | None]:
    """Return the values of each row by attention within the row, [1, tokens, heads, width], and no weights.

    compute: the function of transformers. query, key, value: [1, heads, tokens, width], those of packed tokens.
    attention_mask: that of padded rows.
    """
    layout = layout_of(module)
    if layout is None or query.shape[0] != 1 or query.shape[2] != len(layout.tokens):
        return compute(module, query, key, value, attention_mask, **rest)
    placed = [layout.unpack(own.transpose(1, 2)).transpose(1, 2) for own in (query, key, value)]
    found, _ = compute(module, *placed, attention_mask, **rest)
    return layout.pack(found), None


def attend_eagerly(module: nn.Module, *arguments: Tensor | None, **rest: Any) -> tuple[Tensor, Tensor | None]:
    """Return `attend` by the function that the module's architecture has."""
    return attend(_eager[type(module).__module__], module, *arguments, **rest)  # type: ignore[arg-type]


def layout_of(module: nn.Module) -> Layout | None:
    """Return the layout of the batch under way in the model that a module is in; None if it is not packed."""
    if torch.compiler.is_compiling():
        return UNDER_WAY.layout
    known = _packings.get(module)
    packing = None if known is None else known()
    return None if packing is None else packing.layout
