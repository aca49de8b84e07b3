"""A recipe's values by dotted key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def flattened(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested mappings as one, by dotted key. above: what every key begins with."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flattened(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


def keys_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's values by dotted key; lists become tuples, which can be compared and counted."""
    return {key: frozen(value) for key, value in flattened(recipe).items()}


def frozen(value: Any) -> Any:
    """Return a list as a tuple, at every depth."""
    return tuple(map(frozen, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
