"""Everything that is told of one module."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.inspecting.against import AgainstWeight, RowChange, against_weight, row_change
from reflora_cli.inspecting.effects import Added, Part
from reflora_cli.inspecting.spectra import Balance, Spectrum, Triplets, balance, spectrum, triplets_of


@dataclass(frozen=True)
class Module:
    """What an adapter has changed of one module, or of one parameter that was trained in place.

    module: its path. kind, depth: what the path tells. layer: the name of what the adapter makes of the weight, a class
    of `effects.py`. shape: (out, in). scale, offset_rank: those of the factors. frobenius, spectral: norms of the whole
    change; relative_*: over those of W. low_rank: the singular values of the part of low rank, which is the whole
    change for `Added`. trained: those of the trained pair alone. balance: its factors. rows, weight: the change against
    W. missing: why something is None.
    """

    module: str
    kind: str
    depth: int | None
    layer: str
    shape: tuple[int, int] | None
    scale: float | None
    offset_rank: int
    frobenius: float | None
    relative_frobenius: float | None
    spectral: float | None
    relative_spectral: float | None
    low_rank: Spectrum | None
    trained: Spectrum | None
    balance: Balance | None
    rows: RowChange | None
    weight: AgainstWeight | None
    missing: tuple[str, ...]


def measured(part: Part, W: Tensor | None, kind: str, depth: int | None) -> tuple[Module, Triplets | None]:
    """Return what is told of a module, with the triplets of its change of low rank. W: the base's weight [out, in],
    float32; None where it is not at hand. Raises InputError for a change of another shape than W.
    """
    check_fits(part, W)
    found = None if part.change is None else triplets_of(part.change)
    low_rank = None if found is None or part.change is None else spectrum(found, part.change.rank)
    rows = None if W is None else row_change(W, part.effect)
    weight = None if W is None or found is None else against_weight(W, found)
    whole = low_rank if isinstance(part.effect, Added) else None
    frobenius = whole.frobenius if whole is not None else rows.frobenius if rows is not None else None
    norms = (rows.weight if rows else None, weight.spectral if weight else None)
    return Module(
        module=part.module,
        kind=kind,
        depth=depth,
        layer=type(part.effect).__name__.lower(),
        shape=part.shape or (None if W is None else (W.shape[0], W.shape[1])),
        scale=part.scale,
        offset_rank=part.offset_rank,
        frobenius=frobenius,
        relative_frobenius=ratio(frobenius, norms[0]),
        spectral=whole.spectral if whole is not None else None,
        relative_spectral=ratio(whole.spectral if whole is not None else None, norms[1]),
        low_rank=low_rank,
        trained=trained_spectrum(part, low_rank),
        balance=None if part.pair is None else balance(part.pair),
        rows=rows,
        weight=weight,
        missing=reasons(part, W, found),
    ), found


def check_fits(part: Part, W: Tensor | None) -> None:
    """Raises InputError for a change of another shape than the weight."""
    if W is not None and part.shape is not None and part.shape != tuple(W.shape):
        what, found = "the adapter's tensors do not fit the base", " x ".join(map(str, part.shape))
        raise InputError(Problem(what, f"module {part.module}", found, " x ".join(map(str, W.shape))))


def trained_spectrum(part: Part, low_rank: Spectrum | None) -> Spectrum | None:
    """Return what the singular values of s B A say, for the factors that were trained."""
    if part.pair is None or part.scale is None:
        return None
    if not part.offset_rank:
        return low_rank
    return spectrum(triplets_of(part.pair.times(part.scale)), part.pair.rank)


def reasons(part: Part, W: Tensor | None, found: Triplets | None) -> tuple[str, ...]:
    """Say why something is not told of a module."""
    said = [part.without_low_rank]
    if W is None:
        said.append("the base's weight is missing: no values relative to it")
    if found is not None and not found.rank:
        said.append("the change of low rank is zero: no effective rank, condition or subspaces")
    if part.change is not None and part.pair is None:
        said.append("the layer has no pair of trained factors A, B: no balance")
    return tuple(reason for reason in said if reason)


def ratio(one: float | None, other: float | None) -> float | None:
    """Return one / other; None where one is not known or the other is zero."""
    return None if one is None or not other else one / other
