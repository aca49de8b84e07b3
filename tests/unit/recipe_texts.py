"""A least recipe to be changed, and how to write and load it."""

from __future__ import annotations

from pathlib import Path

from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.sections import Recipe

GOOD = """\
model:
  name: some/model
method:
  name: reflora
  rank: 8
task:
  name: glue/cola
train:
  epochs: 3
"""


def put(directory: Path, content: str | bytes, name: str = "x.yaml") -> Path:
    """Write a recipe and return its path."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(path: Path, *overrides: str) -> Recipe:
    return load_recipe(str(path), overrides)
