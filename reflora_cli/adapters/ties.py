"""Parameters that stand in a model under several names: a head tied to its embedding, the layers of shared blocks.

Whoever chooses, reads or writes modules by their names must ask here whether another module computes with the same
parameter: what happens to one of them happens to the other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import nn


def shared_parameters(model: nn.Module) -> list[tuple[str, ...]]:
    """Return the names of every parameter that has several, in the model's order."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return [tuple(found) for found in names.values() if len(found) > 1]


def tied_to(model: nn.Module, modules: Iterable[str]) -> tuple[str, ...]:
    """Return the modules outside of `modules` that hold one of their parameters too, or one of each other's; sorted
    paths."""
    shared, reached, found = shared_parameters(model), set(modules), set[str]()
    while True:
        owners = {
            owner_of(name)
            for names in shared
            if any(is_inside(name, reached) for name in names)
            for name in names
            if not is_inside(name, reached)
        }
        if not owners:
            return tuple(sorted(found))
        reached |= owners
        found |= owners


def untie(model: nn.Module, path: str) -> None:
    """Give the module at `path` parameters of its own, in place; those shared within the module stay shared there."""
    model.set_submodule(path, copy.deepcopy(model.get_submodule(path)))


def owner_of(name: str) -> str:
    """Return the path of the module that holds a parameter directly. name: the parameter's full name."""
    return name.rpartition(".")[0]


def is_inside(name: str, modules: Iterable[str]) -> bool:
    """Whether the path is one of the modules or lies below one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)
