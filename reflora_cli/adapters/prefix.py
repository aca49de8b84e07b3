"""Prefix tuning: keys and values of k virtual tokens stand before those of every row, in every layer's attention.

Li, Liang 2021, arXiv 2101.00190. For L layers with h key-value heads of width d the prefix is a matrix [k, 2 L h d],
read as [k, 2 L, h, d]: the keys of the first layer, its values, the keys of the second, and so on, as PEFT keeps it. It
is trained itself, normal with deviation 1 at first; or, as in the paper, made of E [k, h d] by
W_2 tanh(W_1 E + b_1) + b_2, W_1 [m, h d] and W_2 [2 L h d, m], of which only the result is written. W and b start as in
torch's linear layers.

The prefix lies in the model's cache of keys and values, in training too: gradient checkpointing would drop that.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor, nn

from reflora_cli.adapters.frozen import autocast_dtype
from reflora_cli.adapters.prompt import embeddings_of
from reflora_cli.adapters.virtual import Arguments, VirtualTokens, body_of, cache_in, reads_causally
from reflora_cli.factors.pair import Role
from reflora_cli.ground.errors import InputError, Problem


class Shape(NamedTuple):
    """The shape of a model's keys: its layers, and the heads and their width in each."""

    layers: int
    heads: int
    width: int


@final
class PrefixTokens(VirtualTokens):
    """Trained keys and values, float32, on the device of the model's embedding.

    embedding [count, 2 L h d], or [count, h d] with a `transform`, the two linear layers that make the former of it.
    """

    peft_type: ClassVar[str] = "PREFIX_TUNING"
    down: nn.Linear | None
    up: nn.Linear | None

    def __init__(self, model: nn.Module, count: int, projection: int | None) -> None:
        """projection: m, or None for a prefix that is trained itself. `start_itself` gives it its first values.

        Raises InputError for an encoder and for a model whose layers keep something else.
        """
        super().__init__(count, is_causal=reads_causally(model))
        cache = kept_keys(model)
        _, heads, _, width = cache.layers[0].keys.shape
        self.cache, self.shape = type(cache), Shape(len(cache.layers), heads, width)
        known = inspect.signature(body_of(model)[0].forward).parameters
        self.takes = "cache" if "cache" in known else "past_key_values"
        self.config = getattr(model, "config").get_text_config(decoder=True)  # noqa: B009 (of a transformers model)
        one = heads * width
        whole = 2 * self.shape.layers * one
        device = embeddings_of(model).weight.device
        self.place = (embeddings_of(model),)
        self.embedding = nn.Parameter(torch.zeros(count, whole if projection is None else one, device=device))
        self.down = None if projection is None else nn.Linear(one, projection, device=device)
        self.up = None if projection is None else nn.Linear(projection, whole, device=device)

    @torch.no_grad()
    def start_itself(self, draw: torch.Generator) -> None:
        self.embedding.copy_(torch.randn(self.embedding.shape, generator=draw))
        for layer in (self.down, self.up):
            for parameter in () if layer is None else (layer.weight, layer.bias):
                assert layer is not None
                bound = 1 / math.sqrt(layer.in_features)
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=draw))

    def written(self) -> Tensor:
        if self.down is None or self.up is None:
            return self.embedding
        found: Tensor = self.up(torch.tanh(self.down(self.embedding)))
        return found

    @torch.no_grad()
    def read(self, written: Tensor) -> None:
        self.embedding.copy_(written)

    def put_before(self, given: Arguments) -> Arguments:
        layers, heads, width = self.shape
        rows = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        (place,) = self.place
        flat = self.written().to(autocast_dtype(place.weight))
        split = flat.view(self.count, 2 * layers, heads, width).permute(1, 2, 0, 3)
        own = split[:, None].expand(-1, len(rows), -1, -1, -1)
        cache = cache_in(given)
        if cache is None:
            cache = self.cache(config=self.config)
            given = {**given, self.takes: cache}
        for layer in range(layers):
            cache.update(own[2 * layer], own[2 * layer + 1], layer)
        return given

    def wider_mask(self, mask: Tensor) -> Tensor:
        return torch.cat([mask.new_ones(mask.shape[0], self.count), mask], dim=1)

    def cut(self, given: Arguments, output: Any) -> Any:
        """Return the output without a cache that the caller did not ask for: the prefix's own."""
        if given.get("use_cache") is not False:
            return output
        return type(output)(**{key: own for key, own in output.items() if key not in ("cache", "past_key_values")})

    def roles(self) -> dict[str, Role]:
        matrices = {"down.weight": Role.DECAYED, "up.weight": Role.DECAYED}
        vectors = {"down.bias": Role.UNDECAYED, "up.bias": Role.UNDECAYED}
        return {"embedding": Role.UNDECAYED, **({} if self.down is None else {**matrices, **vectors})}


def kept_keys(model: nn.Module) -> Any:
    """Return what the model keeps of one token: a cache with `layers` of keys and values, all of one shape.

    Raises InputError for an encoder, and for a model that keeps something else, as states of a recurrence.
    """
    if not reads_causally(model):
        raise unfit(model, "an encoder")
    body, place = body_of(model)[0], embeddings_of(model).weight
    token = torch.zeros(1, 1, dtype=torch.long, device=place.device)
    was_training = body.training
    with torch.no_grad():
        output = body.eval()(input_ids=token, use_cache=True)
    body.train(was_training)
    cache = output.cache if "cache" in output else output.get("past_key_values")
    kept = [(getattr(own, "keys", None), getattr(own, "values", None)) for own in getattr(cache, "layers", ())]
    if any(getattr(own, "is_sliding", False) for own in getattr(cache, "layers", ())):
        raise unfit(model, "sliding-window attention, whose window padding after the prefix would fill")
    shapes = {tuple(own.shape) for pair in kept for own in pair if isinstance(own, Tensor)}
    if len(shapes) != 1 or not all(isinstance(own, Tensor) for pair in kept for own in pair):
        raise unfit(model, f"keys and values of shapes {sorted(shapes)}" if shapes else "no keys and values are kept")
    return cache


def unfit(model: nn.Module, found: str) -> InputError:
    """Return the error for a model before whose keys no prefix can stand."""
    what, expected = "prefix tuning is not possible with this model", "a decoder with equal heads in all layers"
    remedy = "use prompt tuning (method.name=prompt), or another method"
    return InputError(Problem(what, "method.layer", f"a {type(model).__name__}: {found}", expected, remedy))
