"""The weights of a base, read from its files one at a time; the model is never built with values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from reflora_cli.adapter_io.tensor_files import TensorPlace, tensor_places
from reflora_cli.adapters.frozen import is_adaptable, is_transposed
from reflora_cli.combining.base import bare_task, base_section
from reflora_cli.combining.source import Source
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.inspecting.parts import Shape, as_rows
from reflora_cli.model.auto import AutoName, auto_class, load_config
from reflora_cli.model.load import loading_errors, quiet_transformers, refuse_endless
from reflora_cli.model.originals import model_name
from reflora_cli.model.quantize import skeleton
from reflora_cli.model.sources import commit_of, find_source, local_directory
from reflora_cli.objectives.pick import kind_of
from reflora_cli.runs.trained_base import check_same


@dataclass(frozen=True)
class BaseWeights:
    """The weights of a base. name: its name. shapes: (out, in) of its linear modules. places: where the files have
    its parameters, by the model's names. transposed: the parameters that are stored [in, out].
    """

    name: str
    shapes: Mapping[str, Shape]
    places: Mapping[str, TensorPlace]
    transposed: frozenset[str]

    def read(self, parameter: str) -> Tensor | None:
        """Return a parameter [out, in], float32; None where the files hold codes of few bits, or have other names."""
        place = self.places.get(parameter)
        if place is None:
            return None
        tensor = place.read()
        return as_rows((tensor.mT if parameter in self.transposed else tensor).float())


def open_base(source: Source, base: str | None) -> BaseWeights:
    """Return the weights of an adapter's base, of which none has been read. base: its place, if the user names one.

    Raises InputError for a base that is lost, or cannot be read, or is another than the adapter's.
    """
    section = base_section(source, base)
    place = find_source(section.name, section.revision)
    with quiet_transformers(), loading_errors(place):
        config = load_config(place.location, place.revision)
        refuse_endless(config, place)
        model = skeleton(auto_class(model_class(source)).from_config, config)
        files = tensor_places(local_directory(place))
    check_same(place, commit_of(place), source.base)
    adaptable = {name: own for name, own in model.named_modules() if is_adaptable(own)}
    transposed = frozenset(f"{name}.weight" for name, own in adaptable.items() if is_transposed(type(own)))
    shapes = {name: shape_of(own.weight, f"{name}.weight" in transposed) for name, own in adaptable.items()}
    names = dict.fromkeys(name for name, _ in model.named_parameters(remove_duplicate=False))
    found = ((model_name(key, names, model.base_model_prefix), own) for key, own in files.items())
    places = {name: own for name, own in found if name is not None and own.dtype.is_floating_point}
    return BaseWeights(section.name, shapes, places, transposed)


def model_class(source: Source) -> AutoName:
    """Return the class of model onto which the adapter goes."""
    return kind_of(bare_task(source)).auto_class


def shape_of(weight: torch.Tensor, transposed: bool) -> Shape:
    """Return (out, in) of a linear module's weight."""
    out, inside = reversed(weight.shape) if transposed else weight.shape
    return out, inside


def check_modules(source: Source, base: BaseWeights) -> None:
    """Raises InputError for an adapter on modules, or parameters, that the base does not have."""
    known = base.places if source.files.config.in_place else base.shapes
    missing = [name for name in source.layers if name not in known]
    if missing:
        what = "the adapter changes modules that the base does not have"
        expected = "the base on which it was trained"
        where = f"{source.files.weights}, on {base.name}"
        raise InputError(Problem(what, where, ", ".join(missing[:3]), expected))
