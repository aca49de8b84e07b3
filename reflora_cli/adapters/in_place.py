"""Parameters of the base that are trained where they are, without factors and without new modules.

Full fine-tuning trains every parameter of the model (Devlin et al. 2018, BERT, arXiv 1810.04805). BitFit trains the
biases alone (Ben-Zaken et al. 2021, arXiv 2106.10199): b [out] in y = W x + b of linear layers, those of norms, and
whatever else an architecture adds. Parameters keep their shapes. They become float32 whatever the base's dtype, since
steps smaller than a half precision's rounding would be lost; products run in the dtype of autocast.

A parameter that stands in the model under several names (a tied embedding) trains once, under the first of them. What
an architecture holds constant, as sinusoidal positions, is not trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from torch import nn

from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.adapters.quantized import QuantizedWeight
from reflora_cli.adapters.target_patterns import matches
from reflora_cli.adapters.ties import is_inside, owner_of
from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.methods.layers import LayerChoice


def matched_parameters(
    model: nn.Module, layer: LayerChoice, targets: tuple[str, ...] | Literal["all-linear"], saved: Sequence[str]
) -> dict[str, list[str]]:
    """Return the names of the parameters that each target chooses, in the model's order.

    A pattern names modules as in `match_targets`, but of any kind, and chooses all parameters inside of them that
    `layer` trains. `all-linear`, the default, chooses those of the whole model. What lies in `saved` modules, which
    travel whole, is never chosen. Raises InputError for a target that chooses nothing, and for quantized weights.
    """
    known = trainable_names(model, layer, saved)
    modules = {f"all {layer.in_place}": {""}} if targets == "all-linear" else matched_modules(model, targets)
    if layer.trains_weights:
        refuse_quantized(model, set().union(*modules.values()))
    found = {
        target: [first for first, names in known.items() if any(own.intersection(above(name)) for name in names)]
        for target, own in modules.items()
    }
    if empty := [nothing(model, layer, target, modules[target]) for target, names in found.items() if not names]:
        raise InputError(*empty)
    return found


def train_in_place(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Turn the named parameters to float32, one after the other, and let them train; returns them by full name.

    Frozen vectors of the same modules turn to float32 too: a norm computes with a weight and a bias of one dtype only.
    """
    parameters = {name: model.get_parameter(name) for name in names}
    for name, parameter in parameters.items():
        for own in (parameter, *vectors_beside(model, name)):
            own.data = own.data.float()
        parameter.requires_grad_(True)
    return parameters


def vectors_beside(model: nn.Module, name: str) -> list[nn.Parameter]:
    """Return the vectors among the parameters of the module that holds the named one."""
    beside = model.get_submodule(owner_of(name)).parameters(recurse=False)
    return [own for own in beside if own.ndim == 1 and own.is_floating_point()]


def trainable_names(model: nn.Module, layer: LayerChoice, saved: Sequence[str]) -> dict[str, list[str]]:
    """Return all names of every parameter that `layer` trains, by the first of them, in the model's order.

    Biases of quantized layers are among them, though a quantized layer is loaded frozen.
    """
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return {
        every[0]: every
        for parameter, every in names.items()
        if parameter.is_floating_point()
        and (parameter.requires_grad or isinstance(model.get_submodule(owner_of(every[0])), FrozenWeight))
        and any(map(layer.trains, every))
        and not any(is_inside(name, saved) for name in every)
    }


def matched_modules(model: nn.Module, targets: Sequence[str]) -> dict[str, set[str]]:
    """Return the paths of the modules, of any kind, that each target pattern names."""
    paths = [path for path, _ in model.named_modules(remove_duplicate=False) if path]
    return {pattern: {path for path in paths if matches(pattern, path)} for pattern in targets}


def above(name: str) -> Iterator[str]:
    """Yield the paths of all modules in which a parameter or module lies; the model itself is the empty path."""
    while name:
        name = owner_of(name)
        yield name


def refuse_quantized(model: nn.Module, modules: set[str]) -> None:
    """Raises InputError for quantized weights in the modules: no gradient changes a code of few bits."""
    quantized = [path for path, own in model.named_modules() if isinstance(own, QuantizedWeight)]
    if found := [path for path in quantized if modules.intersection((path, *above(path)))]:
        what, remedy = "quantized weights cannot be trained", "set model.quantization=none, or method.name=lora"
        raise InputError(Problem(what, "method.layer", f"{len(found)} of them, first {found[0]}", remedy=remedy))


def nothing(model: nn.Module, layer: LayerChoice, target: str, modules: set[str]) -> Problem:
    """Return why a target chooses no parameter, with the nearest names that exist."""
    if not modules:
        parts = {path.rpartition(".")[2] for path, _ in model.named_modules()}
        remedy = nearest(target, {part for part in parts if part and not part.isdigit()})
        return Problem("a target matches no module of the model", "method.targets", repr(target), remedy=remedy)
    if modules == {""}:
        what, remedy = f"the model has no {layer.in_place} to train", "choose another method, such as method.name=lora"
        return Problem(what, "method.layer", f"{layer}, on a {type(model).__name__}", remedy=remedy)
    what = f"a target matches only modules without {layer.in_place} to train"
    return Problem(
        what, "method.targets", repr(target), remedy="remove the target: modules that are trained whole need none"
    )
