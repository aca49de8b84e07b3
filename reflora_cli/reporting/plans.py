"""Read from a comparison's plan what a report needs: its baseline, its tuned keys, its names of settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reflora_cli.ground.errors import InputError
from reflora_cli.recipe.dotted import keys_of
from reflora_cli.recipe.yaml_lines import parse_yaml
from reflora_cli.runs.comparison import PLAN, SEED, SETTLED


@dataclass(frozen=True)
class Plan:
    """What a comparison's plan says of its report. tuned: the recipe keys that were tuned. baseline_keys: the recipe of
    the setting that is called like the baseline, by dotted key; empty if there is none. titled: the titles that the
    author gave to settings, each with the recipe of its setting.
    """

    place: Path
    baseline: str | None
    tuned: tuple[str, ...]
    baseline_keys: Mapping[str, Any] = field(default_factory=dict)
    titled: tuple[tuple[str, Mapping[str, Any]], ...] = ()


def title_of(plan: Plan | None, keys: Mapping[str, Any], method: str) -> str:
    """Return what a run with this recipe is called: the title of its setting in the plan, or else its method's name."""
    free = {SEED, *SETTLED, *(plan.tuned if plan else ())}
    for title, own in plan.titled if plan else ():
        if all(keys[key] == value for key, value in own.items() if key in keys and key not in free):
            return title
    return method


def read_plan(root: Path) -> Plan:
    """Return what the plan of a comparison says; a plan that cannot be read says nothing."""
    try:
        values, _ = parse_yaml((root / PLAN).read_text(encoding="utf-8"), str(root / PLAN))
    except (OSError, ValueError, InputError):
        values = None
    if not isinstance(values, dict):
        return Plan(root, None, ())
    baseline, tune = values.get("baseline"), values.get("tune")
    grid = {**tune, **(tune.get("grid") or {})} if isinstance(tune, dict) else {}
    resolved = dict(resolved_settings(values.get("settings")))
    return Plan(
        root,
        baseline if isinstance(baseline, str) else None,
        tuple(key for key in grid if "." in key),
        next((keys for name, (_, keys) in resolved.items() if name == baseline), {}),
        tuple((title, keys) for title, keys in resolved.values() if title),
    )


def resolved_settings(settings: object) -> Iterator[tuple[str, tuple[str, Mapping[str, Any]]]]:
    """Yield the name of each setting of a stored plan, with its title and its recipe by dotted key."""
    for name, own in settings.items() if isinstance(settings, dict) else ():
        if isinstance(own, dict) and isinstance(own.get("resolved"), dict):
            yield name, (str(own.get("title") or ""), keys_of(own["resolved"]))
