"""Virtual tokens: trained vectors that stand before every row, in the place of changed weights.

They stand before what goes through a causal model's body, and before a whole encoder, as in PEFT; where rows are padded
on the left, between the padding and the row, if they can: windows of attention count padding. Whoever calls the model
knows nothing of them: what it gives is completed on the way in (mask, positions, token types), and a causal body's
output has the row's own places only. With keys and values of earlier tokens in a cache, virtual tokens are among those.
They take places of the model's positions, which `Base.reserved` counts.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from reflora_cli.adapters.layer import Adapter
from reflora_cli.factors.pair import FactorPair
from reflora_cli.ground.errors import InputError, Problem

NAME = "virtual_tokens"
"""The name that they have in the model's body."""
FILE_KEY = "prompt_embeddings"
"""The key of the one tensor in PEFT's file."""
Arguments = dict[str, Any]


class VirtualTokens(Adapter):
    """Vectors before every row of a model. count: the number of virtual tokens. is_causal: whether the model is."""

    def __init__(self, count: int, *, is_causal: bool) -> None:
        super().__init__()
        self.count, self.is_causal = count, is_causal

    @abstractmethod
    def put_before(self, given: Arguments) -> Arguments:
        """Return the arguments of a pass that begins rows, with the virtual tokens in them, without its mask."""

    @abstractmethod
    def written(self) -> Tensor:
        """Return what PEFT's file holds of them [count, width]."""

    @abstractmethod
    def read(self, written: Tensor) -> None:
        """Take what a file holds, whose shape is that of `written`."""

    @abstractmethod
    def cut(self, given: Arguments, output: Any) -> Any:
        """Return a causal body's output as its caller expects it. given: the completed arguments of the pass."""

    def pairs(self, name: str) -> list[FactorPair]:
        return []

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def shared(self) -> dict[str, Tensor]:
        return {FILE_KEY: self.written()}

    @abstractmethod
    def wider_mask(self, mask: Tensor) -> Tensor:
        """Return the mask [n, count + length] of rows with virtual tokens, for that of the rows [n, length]."""

    def completed(self, given: Arguments) -> Arguments:
        """Return a pass's arguments with virtual tokens: themselves where rows begin, their places in any case."""
        mask = given.get("attention_mask")
        if mask is not None and mask.ndim != 2:
            raise TypeError(f"virtual tokens take masks [n, length], not {list(mask.shape)}")
        begins = not length_of(cache_in(given))
        given = {**given, **self.placed(given, begins=begins)}
        if begins:
            given = self.put_before(given)
        return given if mask is None else {**given, "attention_mask": self.wider_mask(mask)}

    def placed(self, given: Arguments, *, begins: bool) -> Arguments:
        """Return the positions of a pass's own tokens, behind the virtual ones, where they are not the model's usual
        ones.

        A causal model counts padding on the left, which a row's first token must not be behind.
        """
        places, mask = given.get("position_ids"), given.get("attention_mask")
        if self.is_causal and begins and mask is not None and pads_left(mask):
            places = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
        return {} if places is None else {"position_ids": places + self.count}


def attach_virtual(model: nn.Module, tokens: VirtualTokens) -> str:
    """Let every row that the model reads stand behind the virtual tokens, in place; returns their name in the model."""
    body, path = body_of(model)
    body.add_module(NAME, tokens)
    reader = body if tokens.is_causal else model
    names = inspect.signature(reader.forward)

    def complete(module: nn.Module, positional: tuple[Any, ...], named: Arguments) -> tuple[tuple[()], Arguments]:
        return (), found_in(module).completed(bound(names, positional, named))

    def cut(module: nn.Module, _: tuple[Any, ...], named: Arguments, output: Any) -> Any:
        return found_in(module).cut(named, output)

    reader.register_forward_pre_hook(complete, with_kwargs=True)
    if tokens.is_causal:
        reader.register_forward_hook(cut, with_kwargs=True)
    return f"{path}.{NAME}" if path else NAME


def found_in(module: nn.Module) -> VirtualTokens:
    """Return the virtual tokens in a model or in its body: a copy of a model has copies of them, and the same hooks."""
    tokens = body_of(module)[0].get_submodule(NAME)
    assert isinstance(tokens, VirtualTokens)
    return tokens


def body_of(model: nn.Module) -> tuple[nn.Module, str]:
    """Return the body of a transformers model and its path, which is empty for a body itself."""
    path = str(getattr(model, "base_model_prefix", ""))
    body = getattr(model, path, None) if path else None
    return (body, path) if isinstance(body, nn.Module) else (model, "")


def reads_causally(model: nn.Module) -> bool:
    """Whether the model's attention sees earlier tokens only. Raises InputError for a model that cannot be asked, or
    that cannot read vectors in the place of tokens.
    """
    body, _ = body_of(model)
    known = inspect.signature(body.forward).parameters
    is_causal = is_crossed(model) or not sees_ahead(body)
    needed = {"inputs_embeds", "attention_mask", *(("position_ids",) if is_causal else ())}
    cached = not is_causal or bool({"cache", "past_key_values"} & known.keys())
    if is_crossed(model) or not needed <= known.keys() or not cached:
        what, found = "virtual tokens cannot be put before the rows of this model", f"a {type(model).__name__}"
        expected = "an encoder, or a decoder that keeps keys and values and takes position_ids"
        raise InputError(
            Problem(what, "method.layer", found, expected, "choose another method, such as method.name=lora")
        )
    return is_causal


def is_crossed(model: nn.Module) -> bool:
    """Whether the model is an encoder with a decoder."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


@torch.no_grad()
def sees_ahead(body: nn.Module) -> bool:
    """Whether the output at the first of a few tokens depends on the last one, as in an encoder.

    A model that is only counted has no values to compare: it is a decoder if it keeps keys and values.
    """
    was_training = body.training
    first = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 10]], device=next(body.parameters()).device)
    given = body.eval()(input_ids=first, attention_mask=torch.ones_like(first))
    body.train(was_training)
    outputs = given.last_hidden_state
    if isinstance(outputs, FakeTensor):
        return given.get("past_key_values") is None
    return not torch.allclose(outputs[0, 0], outputs[1, 0], rtol=1e-3, atol=1e-6)


def pads_left(mask: Tensor) -> bool:
    """Whether a row of a mask [n, length] begins with padding; not where the mask has no values to look at."""
    return not isinstance(mask, FakeTensor) and not bool(mask[:, 0].all())


def bound(names: inspect.Signature, positional: tuple[Any, ...], named: Arguments) -> Arguments:
    """Return all arguments of a call by name."""
    found = names.bind_partial(*positional, **named).arguments
    extra = next((name for name, own in names.parameters.items() if own.kind is own.VAR_KEYWORD), "")
    return {**{key: value for key, value in found.items() if key != extra}, **found.get(extra, {})}


def cache_in(given: Arguments) -> Any:
    """Return the keys and values that a pass goes on with; None where there are none."""
    return given.get("cache") if given.get("cache") is not None else given.get("past_key_values")


def length_of(cache: Any) -> int:
    """Return the number of tokens in a cache."""
    return 0 if cache is None else int(cache.get_seq_length())
