"""The scores that papers report, from `published.yaml`, and in what ours differ from how they were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from reflora_cli.recipe.dotted import keys_of
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.library import bundled_recipes
from reflora_cli.recipe.yaml_lines import parse_yaml
from reflora_cli.reporting.cells import Cell, Group
from reflora_cli.reporting.settings import Column, Setting, shown, spoken

FILE = Path(__file__).with_name("published.yaml")
COMPARED = (
    "method.rank", "method.alpha", "method.dropout", "method.targets", "method.trainable_modules",
    "model.classifier_dropout", "task.max_length", "task.train_on_prompt", "task.max_train_rows",
    "train.epochs", "train.steps", "train.batch_size", "train.learning_rate", "train.schedule", "train.warmup_steps",
    "train.weight_decay", "eval.select", "eval.protocol", "eval.num_beams",
)  # fmt: skip
"""Keys in which a run may differ from the published recipe so that scores differ."""


@dataclass(frozen=True)
class Published:
    """One published score. task, split, metric: what was scored; split may be empty. rank: None for a method that has
    none. recipe: the name of the bundled recipe with its settings, empty where they are not public.
    """

    source: str
    statistic: str
    bases: tuple[str, ...]
    task: str
    split: str
    metric: str
    method: str
    rank: int
    seeds: int | None
    score: float
    recipe: str


@dataclass(frozen=True)
class Beside:
    """A published score beside one of ours, and in words what differs."""

    row: str
    column: Column
    ours: Cell
    published: Published
    differs: tuple[str, ...]


@cache
def published() -> tuple[Published, ...]:
    """Return all published scores."""
    entries, _ = parse_yaml(FILE.read_text(encoding="utf-8"), FILE.name)
    return tuple(found for entry in entries for found in scores_of(entry))


def scores_of(entry: Mapping[str, Any]) -> list[Published]:
    """Return the scores of one entry of the file."""
    splits = entry.get("splits") or [None] * len(entry["tasks"])
    return [
        Published(
            source=entry["source"],
            statistic=entry["statistic"],
            bases=tuple(entry["bases"]),
            task=task,
            split=split or "",
            metric=metric,
            method=method,
            rank=entry["rank"],
            seeds=entry.get("seeds"),
            score=float(score),
            recipe=entry["recipe"].format(task.rpartition("/")[2]) if method in entry.get("recipe_of", ()) else "",
        )
        for method, scores in entry["scores"].items()
        for task, split, metric, score in zip(entry["tasks"], splits, entry["metrics"], scores, strict=True)
        if score is not None
    ]


def beside(group: Group) -> list[Beside]:
    """Return the published scores for the rows of a table: of the same base, task, metric and method."""
    found = []
    for row in group.rows:
        for column, cell in row.cells.items():
            if row.method != row.preset or not cell.n:  # a method with choices of the user's own is none of a paper's
                continue
            for own in published():
                if matches(own, row.preset, column, group.base):
                    found.append(Beside(row.label, column, cell, own, differences(own, cell.setting, column, cell.n)))
    return found


def matches(own: Published, preset: str, column: Column, base: str) -> bool:
    """Whether a published score is one of this method, task, metric and base."""
    same_split = not own.split or column.is_fresh or own.split == column.split
    same_score = (own.method, own.task, own.metric) == (preset, column.task, column.metric) and same_split
    return same_score and any(is_base(base, known) for known in own.bases)


def is_base(name: str, known: str) -> bool:
    """Whether a base is a known one of the hub, by its id or as a directory that is called like it."""
    name = name.removeprefix("hub:").rstrip("/").lower()
    known = known.lower()
    is_path = name.count("/") > 1 or name.startswith((".", "/", "~"))
    return name == known or (is_path and name.rpartition("/")[2] == known.rpartition("/")[2])


def differences(own: Published, setting: Setting, column: Column, seeds: int) -> tuple[str, ...]:
    """Return in words how our runs differ from the published ones."""
    words = []
    if own.seeds is not None and own.seeds != seeds:
        words.append(f"seeds {own.seeds} there, {seeds} here")
    words += recipe_differences(own.recipe, setting) if own.recipe else rank_difference(own.rank, setting)
    quantization = setting.keys.get("model.quantization")
    if quantization not in (None, "none"):
        words.append(f"base in {quantization} here")
    if column.is_fresh:
        words.append(f"scored here on {column.split}, after tuning on other rows")
    elif setting.keys.get("task.validation_rows") is not None:
        words.append("scored here on rows held out of training")
    if setting.keys.get("task.max_eval_rows") is not None:
        words.append(f"{setting.keys['task.max_eval_rows']} rows scored here")
    if not own.recipe:
        words.append("further settings of the published row are not public")
    return tuple(words)


def rank_difference(rank: int, setting: Setting) -> list[str]:
    """Return how the rank and the rows of training differ."""
    here = setting.keys.get("method.rank")
    rows = setting.keys.get("task.max_train_rows")
    words = [f"rank {rank} there, {here} here"] if here != rank else []
    return words + ([f"{rows} training rows here"] if rows is not None else [])


def recipe_differences(name: str, setting: Setting) -> list[str]:
    """Return the keys in which a setting differs from a bundled recipe; nothing if that is not installed."""
    recipe = bundled_recipe(name)
    keys: Sequence[str] = [key for key in COMPARED if key in recipe and recipe[key] != setting.keys.get(key)]
    return [f"{spoken(key)} {shown(recipe[key])} there, {shown(setting.keys.get(key))} here" for key in keys]


@cache
def bundled_recipe(name: str) -> dict[str, Any]:
    """Return a bundled recipe by dotted key; empty if there is none of that name."""
    path = bundled_recipes().get(name)
    return keys_of(load_recipe(str(path)).model_dump(mode="json")) if path else {}
