"""Check the tensors of an adapter against what they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from reflora_cli.ground.errors import InputError, Problem

Parts = dict[str, Tensor]
"""Tensors of one module: those of an adapter layer by the key behind its path, or those of a module's state."""
LARGEST_VALUE = 1e18
"""The largest entry of a weight's update; with a larger one, squares in norms of the activations leave float32's
range."""


def tensor_problem(weights: Path, what: str, names: Iterable[str], expected: str = "") -> Problem:
    """Return what is wrong with tensors of an adapter. weights: the file that holds them."""
    listed = sorted(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return Problem(f"{what} in the adapter", str(weights), ", ".join(listed[:3]) + more, expected)


def check_shapes(weights: Path, name: str, expected: Mapping[str, tuple[int, ...]], tensors: Parts) -> None:
    """Raises InputError unless exactly these tensors are there for the module `name`, each with its shape."""
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if dict(expected) != found:
        where = f"{weights}, module {name}"
        raise InputError(Problem("the adapter's tensors do not fit the module", where, str(found), str(dict(expected))))


def check_size(weights: Path, name: str, size: float) -> None:
    """Raises InputError for values with which nothing finite is computed. size: an upper bound of a weight's change."""
    if not size <= LARGEST_VALUE:
        what, where = "the adapter's values overflow", f"{weights}, module {name}"
        raise InputError(Problem(what, where, f"a weight's update of up to {size:.3g}", f"at most {LARGEST_VALUE:g}"))


def largest(tensor: Tensor) -> float:
    """Return the largest magnitude of a tensor's values; 0 for an empty one."""
    return float(tensor.abs().max()) if tensor.numel() else 0.0
