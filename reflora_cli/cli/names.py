"""Find what a name means to `reflora show`: a method, a recipe, a task, a key of recipes, a format, or a base."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from reflora_cli.ground.errors import InputError, Problem, near


class Sort(StrEnum):
    """The sorts of things that have names, in the order in which they are looked for."""

    METHOD = "method"
    RECIPE = "recipe"
    TASK = "task"
    KEY = "key"
    FORMAT = "format"
    MODEL = "model"


def known_names() -> Mapping[Sort, tuple[str, ...]]:
    """Return all names by sort."""
    from reflora_cli.cli.export import Format
    from reflora_cli.methods.describe import CHOICES
    from reflora_cli.methods.presets import PRESETS
    from reflora_cli.model.known import known_models
    from reflora_cli.recipe.keys import recipe_keys
    from reflora_cli.recipe.library import bundled_recipes
    from reflora_cli.tasks.registry import TASKS

    choices = (kind for records in CHOICES.values() for kind in records)
    return {
        Sort.METHOD: tuple(dict.fromkeys((*PRESETS, *choices))),
        Sort.RECIPE: tuple(bundled_recipes()),
        Sort.TASK: tuple(TASKS),
        Sort.KEY: tuple(key.path for key in recipe_keys()),
        Sort.FORMAT: tuple(format.value for format in Format),
        Sort.MODEL: tuple(model.name for model in known_models()),
    }


def sorts_of(name: str) -> tuple[Sort, ...]:
    """Return the sorts of all that has this name, in the order of `Sort`. Raises InputError with the nearest names if
    nothing has.
    """
    from reflora_cli.ground.paths import expanded, is_file

    known = known_names()
    found = tuple(sort for sort, names in known.items() if name in names)
    if found:
        return found
    if is_file(expanded(name)):
        return (Sort.RECIPE,)
    raise InputError(unknown(name, known))


def unknown(name: str, known: Mapping[Sort, tuple[str, ...]]) -> Problem:
    """Return the problem of a name that nothing has: whole words of longer names are nearer than like letters."""
    if name.endswith((".yaml", ".yml")):
        return Problem("there is no such file", "reflora show", name, "a recipe", "reflora list recipes")
    everything = [own for names in known.values() for own in names]
    ending = sorted({own for own in everything if name and name in own.replace(".", "/").split("/")}, key=len)
    question = f"did you mean {' or '.join(map(repr, ending[:3]))}?" if ending else near(name, everything)
    remedy = question or "reflora list shows what there is"
    expected = "a method, a recipe, a task, a recipe key, an export format, or a base"
    return Problem("there is nothing with this name", "reflora show", name, expected, remedy)
