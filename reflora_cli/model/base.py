"""Hold a base model as loaded: the model, its tokenizer, where it came from, and what must travel with an adapter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reflora_cli.adapters.quantized import QuantizedWeight
from reflora_cli.adapters.streamed import StreamedWeight
from reflora_cli.adapters.ties import tied_to
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.method import Method
from reflora_cli.model.precision import Compute
from reflora_cli.model.sources import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Contexts = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]


@dataclass(frozen=True)
class Base:
    """A base model with the task's head, its tokenizer, and the modules to save whole with an adapter.

    fresh: outermost modules with a parameter that the checkpoint lacks. head: modules outside the pretrained body.
    labels: the meaning of a classifier's outputs, in their order, in the task's words. foreign_labels: the names that
    the checkpoint gives to the outputs of its own head, if they are not the task's words. lost_template: whether the
    tokenizer had another chat template of its own than that with which the model is trained. reserved: the number of
    positions that virtual tokens take from every row.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: Source
    commit: str | None
    fresh: tuple[str, ...]
    head: tuple[str, ...]
    labels: tuple[str, ...] = ()
    foreign_labels: tuple[str, ...] = ()
    lost_template: bool = False
    reserved: int = 0

    def with_chat_template(self, text: str) -> Base:
        """Return the base with a chat template in the place of its tokenizer's own, which is changed in place."""
        own, self.tokenizer.chat_template = self.tokenizer.chat_template, text
        return replace(self, lost_template=bool(own) and own != text)

    @property
    def hidden_size(self) -> int | None:
        """The width of the model's hidden states; None where its config does not tell."""
        found = getattr(self.model.config.get_text_config(), "hidden_size", None)
        return found if isinstance(found, int) else None

    def place(self, device: torch.device) -> None:
        """Move the model to a device, in place."""
        nn.Module.to(self.model, device)

    def recompute_activations(self, contexts: Contexts | None = None) -> None:
        """Keep only the inputs of the model's blocks for the backward pass, and compute the rest again.

        contexts: the function that makes the contexts of a block's first and second computation, if they need any.
        """
        how: dict[str, Any] = {"use_reentrant": False}
        if contexts is not None:
            how["context_fn"] = contexts
        enable = getattr(self.model, "activation_checkpointing_enable", None)
        if enable is None:  # older versions have the other name only
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
        else:
            enable(activation_checkpointing_kwargs=how)

    def trainable(self, method: Method) -> tuple[str, ...]:
        """Return the modules that `method` trains whole. Raises InputError for a name that is no module."""
        if method.trainable_modules == "auto":
            return outermost({*self.fresh, *self.head})
        modules = dict(self.model.named_modules())
        unknown = [name for name in method.trainable_modules if name not in modules]
        if unknown:
            expected = f"a module's full path, for example {', '.join(self.head)}"
            where = "method.trainable_modules"
            raise InputError(*(Problem("no such module in the model", where, repr(name), expected) for name in unknown))
        return outermost(set(method.trainable_modules))

    def saved(self, method: Method) -> tuple[str, ...]:
        """Return the modules that travel with the adapter: the trained ones, the fresh ones even when frozen, and those
        that share a parameter with one of them.

        PEFT copies each module that it saves whole, so a tied module that is not named would keep the base's weight.
        """
        chosen = {*self.trainable(method), *self.fresh}
        return outermost({*chosen, *tied_to(self.model, chosen)})


def outermost(names: set[str]) -> tuple[str, ...]:
    """Return the names that are not inside another one of the names, sorted."""
    return tuple(sorted(n for n in names if not any(n.startswith(f"{other}.") for other in names)))


def positions(base: Base) -> int:
    """Return the largest number of tokens of a row for which both model and tokenizer have positions; some, as XLNet,
    have no limit.
    """
    limits = (getattr(base.model.config, "max_position_embeddings", None), base.tokenizer.model_max_length)
    known = (*limits, *counted_from_padding(base.model))
    return min((limit for limit in known if limit and limit > 0), default=sys.maxsize) - base.reserved


def counted_from_padding(model: nn.Module) -> list[int]:
    """Return the numbers of positions in tables whose first positions are padding, as RoBERTa's are; such a table has
    more embeddings than positions.
    """
    return [
        module.num_embeddings - module.padding_idx - 1
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None and name.endswith("position_embeddings")
    ]


def pad_multiple(base: Base, compute: Compute) -> int:
    """Return the multiple to which lengths of batches are padded, so that matrix products are fast.

    It is 8 in half precision on a GPU (NVIDIA's guide to matrix products: rows of 16 bytes), and 1 elsewhere, where
    more padding gains nothing.
    """
    on_tensor_cores = compute.device.type == "cuda" and compute.dtype.itemsize == 2
    return 8 if on_tensor_cores and positions(base) % 8 == 0 else 1


def parameter_count(module: nn.Module) -> int:
    """Return the number of parameters; a quantized or streamed weight counts as the matrix that it represents."""
    apart = (own for own in module.modules() if isinstance(own, QuantizedWeight | StreamedWeight))
    return sum(own.in_features * own.out_features for own in apart) + sum(own.numel() for own in module.parameters())
