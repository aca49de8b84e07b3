"""Read what adapters change, module by module.

A module with factors A, B and nothing else changes W by s B A, which its file tells alone: this is LoRA, with any rank,
alpha or scale for each module, and whatever start; where training moved the base, the offset is among the factors. All
other layers are put around the base's weight, and asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from reflora_cli.adapter_io.checks import Parts, check_shapes, check_size, largest
from reflora_cli.adapter_io.files import AdapterFiles
from reflora_cli.adapter_io.formats import FORMATS
from reflora_cli.adapter_io.loading import read
from reflora_cli.adapter_io.lora import LoraConfig
from reflora_cli.adapters.adalora import AdaLoRALinear
from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.adapters.low_rank import FILE_A, FILE_B
from reflora_cli.adapters.vera import VeRALinear
from reflora_cli.combining.changes import Change, Dense, LowRank
from reflora_cli.combining.source import Source
from reflora_cli.ground.errors import InputError, Problem

Weights = Callable[[], Mapping[str, FrozenWeight]]
"""A function that returns the base's weights, by module name; it may take long."""


@dataclass(frozen=True)
class Reader:
    """Reads the changes of one adapter; the base's weights only if they are needed."""

    source: Source
    weights: Weights

    def change(self, module: str) -> Change:
        """Return what the adapter changes of a module's weight. Raises InputError for tensors that do not fit."""
        config, parts = self.source.files.config, self.source.layers[module]
        if isinstance(config, LoraConfig) and is_pair(parts):
            return pair_change(self.source.files, config, module, parts)
        layer = self.make(module, read(self.source.files, parts))
        if layer.changes_bias:
            what = "the adapter changes a bias, which a LoRA adapter cannot hold"
            remedy = "merge it instead: reflora merge RUN"
            raise InputError(Problem(what, f"{self.source.named}, module {module}", config.peft_type, remedy=remedy))
        return of_layer(layer)

    @cached_property
    def make(self) -> Callable[[str, Parts], AdapterLayer]:
        """The function that makes the layer of a module."""
        own = {name: weight for name, weight in self.weights().items() if name in self.source.layers}
        return FORMATS[self.source.files.config.peft_type].maker(self.source.files, own)


def pair_change(files: AdapterFiles, config: LoraConfig, module: str, keys: Mapping[str, str]) -> LowRank:
    """Return s B A of a module, offset included. keys: those of its two factors. Raises InputError for tensors that do
    not fit.
    """
    parts, rank = read(files, keys), config.rank_of(module)
    A, B = parts[FILE_A], parts[FILE_B]
    ends = {FILE_A: (rank, *A.shape[1:2]), FILE_B: (*B.shape[:1], rank)}
    check_shapes(files.weights, module, ends, parts)
    scale = config.scale_of(module, rank)
    check_size(files.weights, module, abs(scale) * rank * largest(A) * largest(B))
    return LowRank(B.double() * scale, A.double())


def is_pair(parts: Mapping[str, str]) -> bool:
    """Whether a module has two factors and nothing else. parts: the keys of its tensors."""
    return set(parts) == {FILE_A, FILE_B}


def of_layer(layer: AdapterLayer) -> Change:
    """Return the change that a layer makes of its frozen weight."""
    match layer:
        case AdaLoRALinear():
            return LowRank(wide(layer.B) * layer.scale, wide(layer.E) * wide(layer.A))
        case VeRALinear():
            return LowRank(wide(layer.b)[:, None] * wide(layer.B), wide(layer.d)[:, None] * wide(layer.A))
        case _:
            return Dense(wide(layer.merged()) - wide(layer.frozen.dense()))


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float64 on the CPU, without gradients."""
    return tensor.detach().cpu().double()


def check_shape(module: str, changes: Sequence[Change], sources: Sequence[Source]) -> None:
    """Raises InputError for changes of one module that are of different weights."""
    shapes = {own.shape: source.named for own, source in zip(changes, sources, strict=True)}
    if len(shapes) > 1:
        found = ", ".join(f"{out} x {inside} in {named}" for (out, inside), named in shapes.items())
        what, expected = "the adapters change weights of different shapes", "adapters of one base"
        raise InputError(Problem(what, f"module {module}", found, expected))
