"""What the shell offers behind TAB: names of recipes, keys of recipes with their values, run directories.

None of these functions imports torch or transformers, or raises: a completion that fails offers nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import typer

Offers = list[tuple[str, str]]
"""The texts that are offered, each with a few words about it, which may be empty."""
NOT_RUNS = (".", "__")
"""The beginnings of names of directories that are not searched for runs."""
MOST_DIRECTORIES = 200
"""The largest number of entries of one directory that are looked at."""


def complete_recipe(incomplete: str) -> Offers:
    """Return bundled recipes and YAML files."""
    return [*bundled(incomplete), *paths(incomplete, lambda path: path.suffix in (".yaml", ".yml"))]


def complete_plan(incomplete: str) -> Offers:
    """Return bundled plans of comparisons, and what may stand in their place: recipes and YAML files."""
    from reflora_cli.recipe.library import bundled_plans

    plans = [(name, "a bundled plan") for name in bundled_plans() if name.startswith(incomplete)]
    return [*plans, *complete_recipe(incomplete)]


def complete_run(incomplete: str) -> Offers:
    """Return run directories, and directories on the way to them."""
    if incomplete:
        return [*runs_in("runs", incomplete), *paths(incomplete, is_run)]
    return [*runs_in("runs", ""), *runs_in(".", "")]


def complete_model(incomplete: str) -> Offers:
    """Return run directories and recipes."""
    return list(dict([*complete_run(incomplete), *complete_recipe(incomplete)]).items())


def complete_override(context: typer.Context, incomplete: str) -> Offers:
    """Return the keys of a recipe, or behind `KEY=` the values that a key may have.

    bash takes `=` for the end of a word: it gives the key and the `=` as words of their own, or only the `=`.
    """
    if "COMP_WORDS" in os.environ:
        *before, word = bash_words()
        if word == "=":
            return values(before[-1], "")
        return values(before[-2], incomplete) if before[-1:] == ["="] else keys(incomplete)
    key, equals, value = incomplete.partition("=")
    return [(f"{key}={own}", word) for own, word in values(key, value)] if equals else keys(key)


def complete_setting(context: typer.Context, incomplete: str) -> Offers:
    """Return what `complete_override` does, and behind a comma the further values that a key may have."""
    given, comma, last = incomplete.rpartition(",")
    if not comma:
        return complete_override(context, incomplete)
    key = bash_words()[-3] if "COMP_WORDS" in os.environ else given.partition("=")[0]
    return [(f"{given},{own}", word) for own, word in values(key, last)]


def keys(incomplete: str) -> Offers:
    """Return the keys that begin as given, each with `=`. A key that is alone comes with its default as well, because
    shells put a blank behind a word that is alone.
    """
    from reflora_cli.recipe.keys import recipe_keys

    found = [own for own in recipe_keys() if own.is_value and own.path.startswith(incomplete)]
    alone = [(f"{own.path}={own.default}", "the default") for own in found if len(found) == 1 and own.has_default]
    return [*((f"{own.path}=", own.meaning) for own in found), *alone]


def values(key: str, incomplete: str) -> Offers:
    """Return the words that a key may be and that begin as given."""
    from reflora_cli.recipe.keys import values_of

    return [(own, "") for own in values_of(key) if own.startswith(incomplete)]


def complete_name(incomplete: str) -> Offers:
    """Return everything that `reflora show` knows."""
    from reflora_cli.cli.names import known_names

    return [(name, kind) for kind, names in known_names().items() for name in names if name.startswith(incomplete)]


def bash_words() -> list[str]:
    """Return the words up to the one that is completed, which may be empty, as bash gives them."""
    words, last = os.environ.get("COMP_WORDS", "").split(), int(os.environ.get("COMP_CWORD", "0"))
    return [*words, ""][: last + 1]


def bundled(incomplete: str) -> Iterator[tuple[str, str]]:
    from reflora_cli.recipe.library import bundled_recipes

    yield from ((name, "a bundled recipe") for name in bundled_recipes() if name.startswith(incomplete))


def runs_in(place: str, incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield the run directories directly in a place that begin as given."""
    for path in children(Path(place)):
        name = os.path.normpath(path)
        if name.startswith(incomplete) and is_run(path):
            yield name, "a run"


def paths(incomplete: str, is_wanted: Callable[[Path], bool]) -> Offers:
    """Return the wanted paths, and the directories on the way to others, that begin as given."""
    head, tail = os.path.split(incomplete)
    found = [path for path in children(Path(head or ".")) if path.name.startswith(tail)]
    wanted = [(os.path.join(head, path.name), "") for path in found if is_wanted(path)]
    return [*wanted, *((os.path.join(head, path.name, ""), "") for path in found if path.is_dir() and tail)]


def children(place: Path) -> Iterable[Path]:
    """Return what lies in a directory, in order and within reason; nothing where it cannot be read."""
    with suppress(OSError):
        return sorted(path for path in place.iterdir() if not path.name.startswith(NOT_RUNS))[:MOST_DIRECTORIES]
    return []


def is_run(path: Path) -> bool:
    return (path / "recipe.yaml").is_file()
