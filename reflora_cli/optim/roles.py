"""Which of a model's trained parameters are pairs of factors, which belong to adapters otherwise, and which do not.

Pairs are found in the layers of this package and in those of PEFT, which are known by what they have and never
imported: `lora_A` and `lora_B`, ModuleDicts of linear layers by the adapter's name, `r` and `scaling`, numbers by the
adapter's name, `active_adapters`, and `lora_magnitude_vector` with DoRA.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from torch import nn

from reflora_cli.factors.pair import Factored, FactorPair, Role
from reflora_cli.ground.errors import InputError, Problem

FACTOR_NAMES = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")
"""PEFT's containers of factors."""


@dataclass(frozen=True)
class Roles:
    """Every trained parameter in exactly one place; make one by hand for layers that `roles_of` cannot know.

    undecayed: other parameters of adapters that are never decayed, as DoRA's magnitudes, by full name.  decayed: those
    that are.  others: heads, biases, norms, by full name.  frames: matrices of adapters whose columns, or rows if they
    are wide, are orthonormal, by full name; never decayed.
    """

    pairs: list[FactorPair]
    undecayed: dict[str, nn.Parameter] = field(default_factory=dict)
    decayed: dict[str, nn.Parameter] = field(default_factory=dict)
    others: dict[str, nn.Parameter] = field(default_factory=dict)
    frames: dict[str, nn.Parameter] = field(default_factory=dict)


def roles_of(model: nn.Module) -> Roles:
    """Return the roles of all parameters of `model` that require a gradient; parameters of PEFT's inactive adapters
    have none.

    A factor whose partner is frozen is no pair, and neither are PEFT's adapters of embeddings, convolutions and stacked
    experts (whose A and B hold a pair for each expert): such parameters are among the others. Raises InputError for a
    model with neither pairs nor frames.
    """
    pairs, inactive = list[FactorPair](), set[nn.Parameter]()
    undecayed, decayed, frames = dict[str, nn.Parameter](), dict[str, nn.Parameter](), dict[str, nn.Parameter]()
    for path, module in model.named_modules():
        if isinstance(module, Factored):
            pairs += module.pairs(path)
            inside = dict(cast(nn.Module, module).named_parameters(recurse=False))
            own = {f"{path}.{key}": (inside[key], role) for key, role in module.roles().items()}
            undecayed |= {name: parameter for name, (parameter, role) in own.items() if role is Role.UNDECAYED}
            decayed |= {name: parameter for name, (parameter, role) in own.items() if role is Role.DECAYED}
            frames |= {name: parameter for name, (parameter, role) in own.items() if role is Role.FRAME}
        elif (active := active_adapters(module)) is not None:
            pairs += peft_pairs(path, module, active)
            undecayed |= peft_magnitudes(path, module)
            inactive |= inactive_parameters(module, active)
    pairs = [pair for pair in pairs if pair.A.requires_grad and pair.B.requires_grad]
    if not pairs and not frames:
        raise InputError(no_pairs(model))
    trained = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter not in inactive
    }
    known = {factor for pair in pairs for factor in (pair.A, pair.B)}
    known |= {*undecayed.values(), *decayed.values(), *frames.values()}
    return Roles(
        pairs,
        {name: parameter for name, parameter in undecayed.items() if name in trained},
        {name: parameter for name, parameter in decayed.items() if name in trained},
        {name: parameter for name, parameter in trained.items() if parameter not in known},
        {name: parameter for name, parameter in frames.items() if name in trained},
    )


def active_adapters(module: nn.Module) -> tuple[str, ...] | None:
    """Return the names of the adapters that a layer of PEFT's computes with; None for any other module."""
    if not any(True for _ in containers(module)):
        return None
    active = getattr(module, "active_adapters", None)
    return tuple(active) if isinstance(active, list | tuple) else None


def containers(module: nn.Module) -> Iterator[tuple[str, nn.ModuleDict | nn.ParameterDict]]:
    """What PEFT keeps for each adapter of a layer by the adapter's name."""
    for key, child in module.named_children():
        if isinstance(child, nn.ModuleDict | nn.ParameterDict):
            yield key, child


def peft_pairs(path: str, module: nn.Module, active: tuple[str, ...]) -> list[FactorPair]:
    """Return the pairs of a layer's active adapters, named `<path>.<adapter>`: two linear layers with r features
    between."""
    parts = {key: child for key, child in containers(module) if isinstance(child, nn.ModuleDict)}
    if not {"lora_A", "lora_B"} <= parts.keys():
        return []
    ranks, scaling = getattr(module, "r", {}), getattr(module, "scaling", {})
    pairs = []
    for adapter in active:
        if adapter in parts["lora_A"] and adapter in parts["lora_B"]:
            A, B = parts["lora_A"][adapter], parts["lora_B"][adapter]
            if type(A) is type(B) is nn.Linear and A.out_features == B.in_features == ranks.get(adapter):
                weights = cast(nn.Parameter, A.weight), cast(nn.Parameter, B.weight)
                pairs.append(FactorPair(f"{path}.{adapter}", *weights, float(scaling.get(adapter, 1.0))))
    return pairs


def single_factors(roles: Roles) -> list[str]:
    """Return the names of PEFT's factors among the others: no rule acts on them."""
    return [name for name in roles.others if any(part.startswith(FACTOR_NAMES) for part in name.split("."))]


def peft_magnitudes(path: str, module: nn.Module) -> dict[str, nn.Parameter]:
    """Return DoRA's magnitudes of all adapters of a layer, by full name."""
    return {
        f"{path}.{key}.{name}": parameter
        for key, child in containers(module)
        if key == "lora_magnitude_vector"
        for name, parameter in child.named_parameters()
    }


def inactive_parameters(module: nn.Module, active: tuple[str, ...]) -> set[nn.Parameter]:
    """What a layer keeps for adapters that it does not compute with."""
    return {
        parameter
        for _, child in containers(module)
        for name, parameter in child.named_parameters()
        if name.partition(".")[0] not in active
    }


def no_pairs(model: nn.Module) -> Problem:
    """What is wrong with a model in which no pair of factors is trained."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    shown = ", ".join([*trained[:3], "..."] if len(trained) > 3 else trained)
    return Problem(
        "the model has no pair of low-rank factors that is trained",
        where=type(model).__name__,
        found=f"{len(trained)} trained parameters: {shown}" if trained else "no trained parameter",
        expected="layers of reflora_cli.adapt, or of PEFT's LoRA with an active adapter",
        remedy="call adapt(model), or peft.get_peft_model, before the optimizer is made",
    )
