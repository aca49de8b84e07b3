"""Means over modules of one kind, and over those of one depth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reflora_cli.inspecting.modules import Module
from reflora_cli.inspecting.subspaces import Alike

Number = float | None


@dataclass(frozen=True)
class Group:
    """Several modules. relative: ||dW||_F / ||W||_F over all of them together; frobenius: the numerator. All others are
    means over those modules that have the number: None where none has.
    """

    name: str
    modules: int
    frobenius: Number
    relative: Number
    effective_rank: Number
    stable_rank: Number
    magnitude: Number
    direction: Number
    amplification: Number
    cosine: Number
    phi_columns: Number
    phi_rows: Number


def by_kind(modules: Sequence[Module], pairs: Mapping[str, Alike]) -> tuple[Group, ...]:
    """Return a group for every kind of module. pairs: the comparison with another adapter, by module."""
    names = dict.fromkeys(own.kind for own in modules)
    return tuple(grouped(name, [own for own in modules if own.kind == name], pairs) for name in names)


def by_depth(modules: Sequence[Module], pairs: Mapping[str, Alike]) -> tuple[Group, ...]:
    """Return a group for every block, the first one first, and one for what is outside of all blocks."""
    depths = sorted({own.depth for own in modules}, key=lambda depth: (depth is None, depth or 0))
    return tuple(
        grouped("outside" if depth is None else str(depth), [own for own in modules if own.depth == depth], pairs)
        for depth in depths
    )


def grouped(name: str, modules: Sequence[Module], pairs: Mapping[str, Alike]) -> Group:
    """Return the means over some modules."""
    alike = [pairs[own.module] for own in modules if own.module in pairs]
    changed = norm(own.frobenius for own in modules)
    rows = [own.rows for own in modules if own.rows is not None]
    known = [own for own in modules if own.low_rank is not None]
    return Group(
        name=name,
        modules=len(modules),
        frobenius=changed,
        relative=relative(modules),
        effective_rank=mean(own.low_rank.effective_rank for own in known if own.low_rank),
        stable_rank=mean(own.low_rank.stable_rank for own in known if own.low_rank),
        magnitude=mean(own.relative_magnitude for own in rows),
        direction=mean(own.direction for own in rows),
        amplification=mean(own.weight.amplification for own in modules if own.weight),
        cosine=mean(own.cosine for own in alike),
        phi_columns=mean(own.columns.phi for own in alike if own.columns),
        phi_rows=mean(own.rows.phi for own in alike if own.rows),
    )


def relative(modules: Sequence[Module]) -> Number:
    """Return ||dW||_F / ||W||_F of modules together; None where a part is not known."""
    change, whole = (
        norm(own.frobenius for own in modules),
        norm(own.rows.weight if own.rows else None for own in modules),
    )
    return change / whole if change is not None and whole else None


def norm(values: Iterable[Number]) -> Number:
    """Return the root of the sum of squares; None where a value is not known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return math.hypot(*known) if len(known) == len(found) else None


def mean(values: Iterable[Number]) -> Number:
    """Return the mean of the values that are known; None for none."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def ordered(modules: Sequence[Module]) -> list[Module]:
    """Return the modules by how much they have changed, the most changed first: relative to W where that is known of
    all of them, else by the norm of the change. Those without either are left out.
    """
    is_relative = all(own.relative_frobenius is not None for own in modules)
    sizes = [own.relative_frobenius if is_relative else own.frobenius for own in modules]
    known = [(size, own) for size, own in zip(sizes, modules, strict=True) if size is not None]
    return [own for _, own in sorted(known, key=lambda each: (-each[0], each[1].module))]
