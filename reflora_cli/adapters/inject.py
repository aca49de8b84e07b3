"""Put adapter layers into a model: match targets, replace modules, freeze the rest, report what was done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from reflora_cli.adapters.adalora import AdaLoRALinear, scale_for
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.blocks import wanted_modules
from reflora_cli.adapters.bottleneck import BottleneckLinear
from reflora_cli.adapters.dora import DoRALinear
from reflora_cli.adapters.frozen import FrozenWeight, freeze
from reflora_cli.adapters.ia3 import ia3_layer
from reflora_cli.adapters.in_place import matched_parameters, train_in_place
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.adapters.lora import LoRALinear
from reflora_cli.adapters.lora_xs import LoRAXSLinear
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.adapters.prefix import PrefixTokens
from reflora_cli.adapters.prompt import PromptTokens
from reflora_cli.adapters.quantized import QuantizedWeight
from reflora_cli.adapters.stella import StellaLinear, multiple_of_identity
from reflora_cli.adapters.streamed import StreamedWeight
from reflora_cli.adapters.target_patterns import matches
from reflora_cli.adapters.targets import refuse_shared
from reflora_cli.adapters.vera import VeRALinear, drawn
from reflora_cli.adapters.virtual import VirtualTokens, attach_virtual
from reflora_cli.factors.pair import scaling_factor
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.axes import Scaling
from reflora_cli.methods.layers import (
    AdaLoRALayer,
    BiasLayer,
    DoRALayer,
    FullLayer,
    IA3Layer,
    LayerChoice,
    LoRALayer,
    LoRAXSLayer,
    StellaLayer,
    VeRALayer,
)
from reflora_cli.methods.unmerged_layers import HoulsbyLayer, PfeifferLayer, PrefixLayer, PromptLayer

OwnLayer = LoRALayer | DoRALayer | StellaLayer | AdaLoRALayer | LoRAXSLayer | IA3Layer | HoulsbyLayer | PfeifferLayer
"""The layers that stand around one weight each, without anything that they share."""


class Adaptation(Protocol):
    """What `inject` asks of a method: a recipe's `Method` answers, and so does `adaptation.LowRank`.

    targets: see `wanted_modules`. needs_full_rank: whether r must be at most min(out, in) on every adapted module.
    """

    @property
    def targets(self) -> tuple[str, ...] | Literal["all-linear"]: ...
    @property
    def layer(self) -> LayerChoice: ...
    @property
    def rank(self) -> int: ...
    @property
    def alpha(self) -> float: ...
    @property
    def scaling(self) -> Scaling: ...
    @property
    def dropout(self) -> float: ...
    @property
    def needs_full_rank(self) -> bool: ...


def inject(
    model: nn.Module,
    method: Adaptation,
    trainable: Sequence[str],
    saved: Sequence[str],
    left_out: Sequence[str] = (),
) -> Adapted:
    """Adapt `model` in place as `method` says and freeze everything but the adapters and the `trainable` modules.

    A layer that trains the base in place puts nothing in: its parameters turn to float32 and keep their gradients. All
    factors of pairs are zero afterwards: `start.py` gives them their first values, or a checkpoint its own.

    Modules inside a `saved` one (the trainable modules, and fresh ones) are never adapted: they travel whole. Modules
    in `left_out` are not adapted either, even if a target matches them. Raises InputError when a pattern matches
    nothing, when the rank is too large for the method on a matched module, and for modules that cannot be adapted or
    trained.
    """
    if method.layer.in_place:
        return inject_in_place(model, method, trainable, saved, left_out)
    if isinstance(method.layer, PromptLayer | PrefixLayer):
        return attach_before(model, build_virtual(method.layer, model), trainable)
    found = wanted_modules(model, method.layer, method.targets, saved)
    matched = {pattern: [name for name in names if name not in left_out] for pattern, names in found.items()}
    wanted = {name for names in matched.values() for name in names}
    refuse_shared(model, wanted)
    weights = {name: freeze(module) for name, module in model.named_modules() if name in wanted}
    for name, frozen in weights.items():
        check_rank(method, name, (frozen.out_features, frozen.in_features))
    matches = {pattern: len(names) for pattern, names in matched.items()}
    return attach(model, build_layers(method, weights), trainable, matches)


def inject_in_place(
    model: nn.Module, method: Adaptation, trainable: Sequence[str], saved: Sequence[str], left_out: Sequence[str]
) -> Adapted:
    """Let the base's own parameters train as `method` says. The arguments are those of `inject`, but for `left_out`,
    which names parameters.
    """
    found = matched_parameters(model, method.layer, method.targets, saved)
    kept_out = set(left_out)
    matched = {target: [name for name in names if name not in kept_out] for target, names in found.items()}
    adapted = attach(model, {}, trainable, {target: len(names) for target, names in matched.items()})
    wanted = dict.fromkeys(name for names in matched.values() for name in names)
    return replace(adapted, in_place=train_in_place(model, wanted))


def attach(
    model: nn.Module, layers: Mapping[str, AdapterLayer], trainable: Sequence[str], matches: Mapping[str, int]
) -> Adapted:
    """Put ready-made adapter layers at the named modules; only they and the `trainable` modules keep gradients."""
    model.requires_grad_(False)
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    return Adapted(dict(layers), train_whole(model, trainable), dict(matches))


def attach_before(model: nn.Module, tokens: VirtualTokens, trainable: Sequence[str]) -> Adapted:
    """Put virtual tokens before the model's rows; only they and the `trainable` modules keep gradients."""
    model.requires_grad_(False)
    name = attach_virtual(model, tokens)
    return Adapted({name: tokens}, train_whole(model, trainable), {"virtual tokens": tokens.count})


def remove_empty(model: nn.Module, adapted: Adapted) -> None:
    """Take the layers of rank 0 out of the model, in place: their frozen weight stands there again by itself.

    What was adapted forgets them: they are neither trained nor written.
    """
    layers = {name: layer for name, layer in adapted.layers.items() if isinstance(layer, LowRankLayer)}
    for name, layer in layers.items():
        if not layer.rank:
            model.set_submodule(name, layer.frozen)
            del adapted.layers[name]


def build_layers(method: Adaptation, weights: Mapping[str, FrozenWeight]) -> dict[str, AdapterLayer]:
    """Return the new adapter layers on frozen weights, by module name; what layers share is made once, here."""
    match method.layer:
        case VeRALayer() as chosen:
            start = torch.full((method.rank,), chosen.d_initial)
            shared = drawn(chosen.projection_seed, method.rank, weights.values())
            return {
                name: VeRALinear(frozen, shared, (start, torch.zeros(frozen.out_features)), method.dropout)
                for name, frozen in weights.items()
            }
        case BiasLayer() | FullLayer() | PromptLayer() | PrefixLayer():
            return {}
        case chosen:
            return {name: new_layer(method, chosen, name, frozen) for name, frozen in weights.items()}


def new_layer(method: Adaptation, layer: OwnLayer, name: str, frozen: FrozenWeight) -> AdapterLayer:
    """Return the new adapter layer of a module that shares nothing with others, given by its name and weight."""
    rank, dropout = method.rank, method.dropout
    scale = scaling_factor(method.scaling, method.alpha, rank)
    match layer:
        case LoRALayer() | DoRALayer() | StellaLayer():
            return build_layer(layer, frozen, zero_pair(frozen, rank), scale, dropout)
        case AdaLoRALayer():
            return AdaLoRALinear(frozen, zero_triplets(frozen, rank), scale_for(method.alpha, rank), dropout)
        case LoRAXSLayer(deviation=deviation):
            return LoRAXSLinear(frozen, rank, scale, dropout, deviation)
        case IA3Layer(feedforward=patterns):
            return ia3_layer(frozen, any(matches(pattern, name) for pattern in patterns))
        case HoulsbyLayer(activation=activation) | PfeifferLayer(activation=activation):
            return BottleneckLinear(frozen, rank, activation, dropout)


def build_virtual(layer: PromptLayer | PrefixLayer, model: nn.Module) -> VirtualTokens:
    """Return new virtual tokens for the model. Raises InputError for a model that cannot read them."""
    match layer:
        case PromptLayer():
            return PromptTokens(model, layer.tokens, layer.init)
        case PrefixLayer():
            return PrefixTokens(model, layer.tokens, layer.projection)


def zero_pair(frozen: FrozenWeight, rank: int) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and B [out, r] for a weight, at zero."""
    return torch.zeros(rank, frozen.in_features), torch.zeros(frozen.out_features, rank)


def zero_triplets(frozen: FrozenWeight, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return A [r, in], E [r, 1] and B [out, r] for a weight, at zero."""
    A, B = zero_pair(frozen, rank)
    return A, torch.zeros(rank, 1), B


def build_layer(
    layer: LoRALayer | DoRALayer | StellaLayer,
    frozen: FrozenWeight,
    pair: tuple[Tensor, Tensor],
    scale: float,
    dropout: float,
) -> AdapterLayer:
    """Return the adapter layer of one kind with A and B on one frozen weight."""
    match layer:
        case LoRALayer():
            return LoRALinear(frozen, pair, scale, dropout)
        case DoRALayer():
            return DoRALinear(frozen, pair, scale, dropout)
        case StellaLayer():
            made = StellaLinear(frozen, pair, scale, dropout)
            made.put_between(multiple_of_identity(made.rank, layer.s_initial, layer.diagonal))
            return made


def train_whole(model: nn.Module, trainable: Sequence[str]) -> dict[str, nn.Parameter]:
    """Turn the named modules to float32 and let them train; their parameters by full name.

    Raises InputError for a module with quantized or streamed weights, which have no gradient.
    """
    others: dict[str, nn.Parameter] = {}
    for module_name in trainable:
        quantized = [
            name for name, own in model.get_submodule(module_name).named_modules() if isinstance(own, QuantizedWeight)
        ]
        if quantized:
            what = "a module with quantized weights cannot be trained whole"
            found = f"{module_name}, in which {quantized[0] or 'the module itself'} is quantized"
            raise InputError(Problem(what, "method.trainable_modules", found, remedy="model.quantization=none"))
        if any(isinstance(own, StreamedWeight) for own in model.get_submodule(module_name).modules()):
            what, remedy = "a module with streamed weights cannot be trained whole", "model.streaming=none"
            raise InputError(Problem(what, "method.trainable_modules", module_name, remedy=remedy))
        module = model.get_submodule(module_name).requires_grad_(True)
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.float()  # Module.float cannot cast parameters without values
        known = set(others.values())  # a parameter that two of the modules share trains under its first name
        own = {f"{module_name}.{name}": parameter for name, parameter in module.named_parameters()}
        others |= {name: parameter for name, parameter in own.items() if parameter not in known}
    return others


def too_small(model: nn.Module, method: Adaptation, names: Sequence[str]) -> list[str]:
    """Return those of the named modules whose weight allows no factors of full rank where the method needs them."""
    if not method.needs_full_rank:
        return []
    frozen = {name: freeze(model.get_submodule(name)) for name in names}
    return [name for name, own in frozen.items() if method.rank > min(own.out_features, own.in_features)]


def check_rank(method: Adaptation, name: str, shape: tuple[int, int]) -> None:
    """Raises InputError for a method that needs factors of full rank, unless r is at most min(out, in)."""
    if method.needs_full_rank and method.rank > min(shape):
        problem = Problem(
            "the rank is larger than an adapted weight allows: the method needs A and B of full rank",
            where=f"method.rank, at module {name}",
            found=str(method.rank),
            expected=f"at most {min(shape)} for a weight of {shape[0]} x {shape[1]}",
        )
        raise InputError(problem)
