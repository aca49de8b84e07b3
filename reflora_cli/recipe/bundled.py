"""Say what each bundled recipe trains, without checking any of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from reflora_cli.methods.presets import DEFAULT
from reflora_cli.recipe.files import read_layers, value_at
from reflora_cli.recipe.library import bundled_recipes

SENTENCE = re.compile(r".+?[^ .]\.(?= [A-Z]|$)")
"""The first sentence of a comment: a full stop before a small letter or a number belongs to an abbreviation."""


@dataclass(frozen=True)
class Bundled:
    """A bundled recipe. about: the first sentence of its comment."""

    name: str
    about: str
    base: str
    task: str
    method: str


def bundled_list() -> tuple[Bundled, ...]:
    """Return what all bundled recipes train, in the order of their names."""
    return tuple(bundled(name, path) for name, path in sorted(bundled_recipes().items()))


def bundled(name: str, path: Path) -> Bundled:
    """Return what one recipe trains."""
    values = read_layers(path, ()).values
    task = value_at(values, ("task", "name"), value_at(values, ("task", "kind"), ""))
    return Bundled(
        name=name,
        about=first_sentence(comment_of(path)),
        base=str(value_at(values, ("model", "name"), "")),
        task=" + ".join(task) if isinstance(task, list) else str(task),
        method=str(value_at(values, ("method", "name"), DEFAULT)),
    )


def comment_of(path: Path) -> str:
    """Return the lines of comment with which a file begins, as one line."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, or all of it."""
    found = SENTENCE.match(text)
    return (found[0] if found else text).rstrip(".:")
