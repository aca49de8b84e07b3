"""Say of a run what may be published: names on the hub, and of local paths their last part only."""

from __future__ import annotations

import json
import re
from pathlib import Path

from reflora_cli.data.load import OWN
from reflora_cli.ground.paths import exists, expanded
from reflora_cli.model.sources import Source
from reflora_cli.recipe.sections import Recipe

OWNED = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""A hub id with its owner. One without could as well be a directory."""


def hub_id(source: Source) -> str | None:
    """Return the name of a base on the hub; None if none is known.

    A local copy may tell from which it was made (`_name_or_path` of its config).
    """
    if not source.is_local:
        return source.name
    if not source.is_path:
        return None
    try:
        config = json.loads((Path(source.location) / "config.json").read_text(encoding="utf-8"))
        told = config.get("_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return told if isinstance(told, str) and OWNED.fullmatch(told) and not exists(expanded(told)) else None


def public_name(source: Source) -> str:
    """Return what a base is called in public: its hub id, its name in a package, or its directory's own name."""
    return hub_id(source) or (last_part(source.location) if source.is_path else source.name)


def public_recipe(recipe: Recipe, source: Source) -> Recipe:
    """Return the recipe with public names for base, data and the adapter from which it began."""
    task, method = recipe.task, recipe.method
    data = task.data if task.data in OWN else last_part(task.data)
    after = None if method.after is None else last_part(method.after)
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"name": public_name(source)}),
            "task": task.model_copy(update={"data": data}),
            "method": method.model_copy(update={"after": after}),
        }
    )


def last_part(path: str) -> str:
    """Return the name of what a path leads to."""
    return expanded(path).absolute().name or expanded(path).resolve().name or "local"
