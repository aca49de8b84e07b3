"""Read what an adapter has of each module, from its file as far as possible, one module at a time.

A LoRA with or without magnitudes needs nothing else. Layers of other kinds are put around a weight that has the base's
shape and no values, and asked; those whose file does not say the shape of the weight need the base for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from reflora_cli.adapter_io.adalora import AdaloraConfig
from reflora_cli.adapter_io.checks import Parts, check_shapes, check_size, largest
from reflora_cli.adapter_io.formats import FORMATS
from reflora_cli.adapter_io.loading import read
from reflora_cli.adapter_io.lora import LoraConfig, offset_rank
from reflora_cli.adapters.adalora import FILE_A as TRIPLETS_A
from reflora_cli.adapters.adalora import FILE_B as TRIPLETS_B
from reflora_cli.adapters.dora import FILE_MAGNITUDE
from reflora_cli.adapters.frozen import FrozenWeight, freeze, module_of
from reflora_cli.adapters.ia3 import IA3Input, IA3Output
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.adapters.low_rank import FILE_A, FILE_B
from reflora_cli.combining.changes import LowRank
from reflora_cli.combining.reading import of_layer, pair_change, wide
from reflora_cli.combining.source import Source, find_adapter, not_merged, with_keys
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.inspecting.effects import Added, Effect, Part, Replaced, Rescaled, ScaledColumns, ScaledRows

Shape = tuple[int, int]


def read_inspected(named: str) -> Source:
    """Return an adapter directory, or that of a run, whose layers are what is inspected; parameters trained in place
    are layers of one part. Raises InputError for an adapter that changes no weights.
    """
    source = find_adapter(named)
    if reason := not_merged(source.files):
        what, remedy = (
            "this adapter changes no weights: there is nothing to inspect",
            "inspect one that does, such as LoRA",
        )
        raise InputError(Problem(what, named, reason, remedy=remedy))
    names = source.files.config.in_place
    if not names:
        return with_keys(source)
    if absent := [name for name in names if name not in source.files.tensors]:
        raise InputError(Problem("the adapter lacks parameters that its config names", named, ", ".join(absent[:3])))
    whole = tuple(sorted(set(source.files.tensors) - set(names)))
    return replace(source, layers={name: {"": name} for name in names}, whole=whole)


@dataclass(frozen=True)
class PartReader:
    """Reads the parts of one adapter. shapes: those of the base's weights (out, in), by module; None without a base.
    transposed: parameters of the base that are stored [in, out].
    """

    source: Source
    shapes: Mapping[str, Shape] | None
    transposed: frozenset[str] = frozenset()

    def part(self, module: str) -> Part | None:
        """Return what the adapter has of a module; None for a layer of which nothing is known without the base. Raises
        InputError for tensors that do not fit.
        """
        config, keys = self.source.files.config, self.source.layers[module]
        if config.in_place:
            return Part(module, Replaced(self.parameter(module)))
        if isinstance(config, LoraConfig):
            return self.with_pair(config, module)
        layer = self.layer(module, read(self.source.files, keys))
        return None if layer is None else Part(module, effect_of(layer))

    def parameter(self, name: str) -> Tensor:
        """Return a parameter that was trained in place as [out, in]; a vector is one row."""
        found = self.source.files.tensors[name]
        return as_rows(found.mT if name in self.transposed else found)

    def with_pair(self, config: LoraConfig, module: str) -> Part:
        """Return a module that has two factors and perhaps magnitudes."""
        files, keys = self.source.files, self.source.layers[module]
        factors = {FILE_A, FILE_B}
        expected = factors | ({FILE_MAGNITUDE} if config.use_dora else set())
        if keys.keys() != expected:
            what, found = "the adapter's tensors do not fit its config", ", ".join(sorted(keys))
            raise InputError(Problem(what, f"{files.weights}, module {module}", found, ", ".join(sorted(expected))))
        change = pair_change(files, config, module, {key: keys[key] for key in factors})
        effect: Effect = Added(change)
        if config.use_dora:
            magnitude = files.tensors[keys[FILE_MAGNITUDE]]
            check_shapes(files.weights, module, {FILE_MAGNITUDE: change.shape[:1]}, {FILE_MAGNITUDE: magnitude})
            check_size(files.weights, module, largest(magnitude))
            effect = Rescaled(change, wide(magnitude))
        offset, rank = offset_rank(files, module), change.rank
        A, B = (wide(files.tensors[keys[key]]) for key in (FILE_A, FILE_B))
        pair = LowRank(B[:, : rank - offset], A[: rank - offset])
        return Part(module, effect, pair, config.scale_of(module, rank), offset)

    def layer(self, module: str, tensors: Parts) -> AdapterLayer | None:
        """Return the layer of a module around a weight without values; None where its shape is not known."""
        return self.make(module, tensors) if module in self.known_shapes else None

    @cached_property
    def known_shapes(self) -> Mapping[str, Shape]:
        """The shapes of weights: the base's, or those that the adapter's file tells."""
        if self.shapes is not None or not isinstance(self.source.files.config, AdaloraConfig):
            return self.shapes or {}
        tensors, layers = self.source.files.tensors, self.source.layers
        ends = {name: (tensors[own[TRIPLETS_B]], tensors[own[TRIPLETS_A]]) for name, own in layers.items()}
        return {name: (B.shape[0], A.shape[-1]) for name, (B, A) in ends.items()}

    @cached_property
    def make(self) -> Callable[[str, Parts], AdapterLayer]:
        """The function that makes the layer of a module."""
        weights = {name: empty_weight(self.known_shapes[name]) for name in self.source.layers}
        return FORMATS[self.source.files.config.peft_type].maker(self.source.files, weights)


def as_rows(tensor: Tensor) -> Tensor:
    """Return a parameter as a matrix: a vector as one row, one with more dimensions with all but the first as one."""
    return tensor[None] if tensor.ndim < 2 else tensor.reshape(tensor.shape[0], -1)


def empty_weight(shape: Shape) -> FrozenWeight:
    """Return a frozen weight of this shape that has no values and takes no memory."""
    return freeze(module_of(nn.Linear, torch.zeros(1, 1).expand(shape), None))


def effect_of(layer: AdapterLayer) -> Effect:
    """Return what a layer makes of its weight, without asking for the weight."""
    match layer:
        case IA3Output():
            return ScaledRows(wide(layer.l))
        case IA3Input():
            return ScaledColumns(wide(layer.l))
        case _:
            change = of_layer(layer)
            assert isinstance(change, LowRank)
            return Added(change)
