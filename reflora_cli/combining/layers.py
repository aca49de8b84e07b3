"""Make the layers of a combination, one module at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt

from torch import Tensor

from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.adapters.low_rank import FILE_A, FILE_B
from reflora_cli.combining.base import frozen_weights, load_base
from reflora_cli.combining.changes import Change, LowRank
from reflora_cli.combining.reading import Reader, check_shape, is_pair
from reflora_cli.combining.request import CombineRequest
from reflora_cli.combining.source import Source
from reflora_cli.combining.truncated import Truncated
from reflora_cli.combining.ways import Way
from reflora_cli.console.reporter import Reporter, Work
from reflora_cli.ground.errors import InputError, Problem


@dataclass(frozen=True)
class Layers:
    """The layers of a combination. tensors: their parts by key. ranks: by module. lost: the squared Frobenius norms
    of what truncation left out and of what was truncated, by module.
    """

    tensors: dict[str, Tensor]
    ranks: dict[str, int]
    lost: dict[str, tuple[float, float]]

    @property
    def share_lost(self) -> float | None:
        """The share of the change that truncation left out, in the Frobenius norm over all modules; None where nothing
        was truncated.
        """
        whole = sum(own for _, own in self.lost.values())
        return sqrt(sum(own for own, _ in self.lost.values()) / whole) if whole else None

    @property
    def worst_share(self) -> float | None:
        """The largest of the shares of single modules."""
        return max((sqrt(lost / whole) for lost, whole in self.lost.values() if whole), default=None)


def readers_of(sources: Sequence[Source], base: str | None, reporter: Reporter) -> list[Reader]:
    """Return what reads the changes of the sources; the base is loaded once, when the first of them needs it."""

    @cache
    def weights() -> Mapping[str, FrozenWeight]:
        return frozen_weights(load_base(sources[0], base, reporter), sources)

    return [Reader(own, weights) for own in sources]


def combined_layers(
    request: CombineRequest, readers: Sequence[Reader], weights: Sequence[float], way: Way, reporter: Reporter
) -> Layers:
    """Return the combined layers, made module by module, in float32. weights: one for each of the adapters.

    Raises InputError for what does not fit, or has no such combination.
    """
    modules = sorted({name for own in readers for name in own.source.layers})
    layers = Layers({}, {}, {})
    with reporter.counting(Work(f"combine by {request.how}", len(modules), "modules")) as tell:
        for done, name in enumerate(modules, start=1):
            add(layers, name, combined(request, readers, weights, way, name))
            tell(done)
    return layers


def add(layers: Layers, name: str, result: Truncated) -> None:
    """Add the combination of one module."""
    layers.tensors[f"{name}.{FILE_A}"] = result.change.A.float().contiguous()
    layers.tensors[f"{name}.{FILE_B}"] = result.change.B.float().contiguous()
    layers.ranks[name], layers.lost[name] = result.change.rank, (result.lost, result.whole)


def combined(
    request: CombineRequest, readers: Sequence[Reader], weights: Sequence[float], way: Way, name: str
) -> Truncated:
    """Return the combination of one module: of those adapters that change it."""
    having = [(own, weight) for own, weight in zip(readers, weights, strict=True) if name in own.source.layers]
    changes = [own.change(name) for own, _ in having]
    check_shape(name, changes, [own.source for own, _ in having])
    rank = request.rank or max(rank_of(own, change, name) for (own, _), change in zip(having, changes, strict=True))
    return way([change.times(weight) for change, (_, weight) in zip(changes, having, strict=True)], rank)


def rank_of(reader: Reader, change: Change, name: str) -> int:
    """Return the rank of an adapter at a module. Raises InputError for an adapter that has none."""
    if isinstance(change, LowRank):
        return change.rank
    key = reader.source.layers[name].get(FILE_A)
    if key is None:
        what = "the adapter has no low-rank factors whose rank could be used for truncation"
        raise InputError(Problem(what, reader.source.named, remedy="set the rank: --rank N"))
    return reader.source.files.tensors[key].shape[0]


def kept_layers(source: Source) -> Layers:
    """Return the layers of a source as they are."""
    keys = [key for parts in source.layers.values() for key in parts.values()]
    tensors = {key: source.files.tensors[key] for key in keys}
    ranks = {name: tensors[parts[FILE_A]].shape[0] for name, parts in source.layers.items()}
    return Layers(tensors, ranks, {})


def can_be_kept(source: Source) -> bool:
    """Whether all layers of a source have factors, and some have more than that, which a sum of factors would lose."""
    parts = source.layers.values()
    return all(FILE_A in own for own in parts) and not all(map(is_pair, parts))
