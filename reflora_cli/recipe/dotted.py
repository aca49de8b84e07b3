"""A recipe's values by dotted key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flattened(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested mappings as one, by dotted key. above: what every key begins with."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flattened(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found
