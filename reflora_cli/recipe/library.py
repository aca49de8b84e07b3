"""Find the recipes and plans that come with reflora, without reading them: the shell completes their names."""

from __future__ import annotations

from pathlib import Path

PLACES = (Path(__file__).parents[1] / "_recipes", Path(__file__).parents[2] / "recipes")
"""The places of bundled recipes: in an installed package, and in the repository."""
PLANS = "plans/"
"""What the names of bundled plans begin with."""


def bundled_recipes() -> dict[str, Path]:
    """Return every recipe that comes with reflora, file by name; files in `base/` are only for extending, and those in
    `plans/` are plans of comparisons.
    """
    return {name: path for name, path in bundled_files().items() if not name.startswith(("base/", PLANS))}


def bundled_plans() -> dict[str, Path]:
    """Return every plan of a comparison that comes with reflora, file by name."""
    return {name: path for name, path in bundled_files().items() if name.startswith(PLANS)}


def bundled_files() -> dict[str, Path]:
    """Return `bundled_recipes`, `bundled_plans` and the files in `base/`."""
    root = next((place for place in PLACES if place.is_dir()), None)
    if root is None:
        return {}
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}
