"""`reflora list`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, NoReturn

import typer

from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.options import Json

Lines = Sequence[Mapping[str, object]]
"""What is listed: one mapping for each thing, from column to value."""


class Listed(StrEnum):
    """What can be listed."""

    RECIPES = "recipes"
    TASKS = "tasks"
    METHODS = "methods"
    MODELS = "models"
    FORMATS = "formats"


WHAT = {
    Listed.RECIPES: "bundled recipes, for `reflora train NAME`",
    Listed.TASKS: "known tasks with their columns and scores, for task.name",
    Listed.METHODS: "presets, for method.name",
    Listed.MODELS: "base models: of the recipes, built in, or in the hub's cache",
    Listed.FORMATS: "formats, for `reflora export --format`",
}


def list_command(
    kind: Annotated[Listed | None, typer.Argument(help="What to list [default: the number of each].")] = None,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORD]...", help="Show only lines that contain all of these words.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what there is: recipes, tasks, methods, base models and export formats.

    Example: `reflora list recipes glue` and `reflora show glue/cola`
    """
    with guarded():
        refuse_several_processes("reflora list")
        from reflora_cli.console.output import print_json

        if kind is None:
            record = show_counts()
        else:
            wanted = [word.lower() for word in words or ()]
            found = [line for line in LISTS[kind]() if holds(line, wanted)]
            show_lines(kind, found, wanted)
            record = {kind.value: found}
        if as_json:
            print_json(record)


def holds(line: Mapping[str, object], words: Sequence[str]) -> bool:
    """Return whether a line holds all of the words, in any column and of any case."""
    text = " ".join(map(cell, line.values())).lower()
    return all(word in text for word in words)


def show_counts() -> dict[str, Any]:
    """Show what can be listed, and return how much there is of each kind."""
    from reflora_cli.console.output import make_reporter, show_table

    counts = {kind: len(lines()) for kind, lines in LISTS.items()}
    rows = [[kind.value, str(count), WHAT[kind]] for kind, count in counts.items()]
    show_table("what can be listed", ["kind", "count", "what"], rows)
    make_reporter().note("reflora list KIND [WORD ...] lists one kind; reflora show NAME shows one thing in full")
    return {kind.value: count for kind, count in counts.items()}


def show_lines(kind: Listed, lines: Lines, words: Sequence[str]) -> None:
    """Show one list. words: those that were asked for, which a message names where no line holds them."""
    from reflora_cli.console.output import make_reporter, show_table

    if lines:
        columns = list(lines[0])
        show_table(f"{len(lines)} {kind}", columns, [[cell(line[name]) for name in columns] for line in lines])
        make_reporter().note(f"reflora show {cell(next(iter(lines[0].values())))} tells of one in full")
    else:
        make_reporter().note(f"of the {kind}, none holds {' and '.join(map(repr, words))}")


def cell(value: object) -> str:
    """Return a value as a table has it."""
    match value:
        case None:
            return ""
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.2f}"
        case list() | tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def recipes() -> Lines:
    from reflora_cli.recipe.bundled import bundled_list

    return [
        {"name": own.name, "task": own.task, "method": own.method, "base": own.base, "about": own.about}
        for own in bundled_list()
    ]


def tasks() -> Lines:
    from reflora_cli.tasks.describe import described_task
    from reflora_cli.tasks.registry import TASKS

    found = [described_task(task) for task in TASKS.values()]
    return [
        {
            "name": own.name,
            "score": own.metrics[0],
            "source": f"{len(own.parts)} data sets" if own.parts else own.source,
            "asks": own.asks,
        }
        for own in found
    ]


def methods() -> Lines:
    from reflora_cli.methods.describe import described_briefly
    from reflora_cli.methods.presets import PRESETS

    return [
        {"name": name, "choices": described_briefly(name), "source": preset.source} for name, preset in PRESETS.items()
    ]


def models() -> Lines:
    from reflora_cli.model.known import known_models

    return [
        {
            "name": own.name,
            "recipes": len(own.recipes),
            "here": own.where,
            "first recipe": own.recipes[0] if own.recipes else "",
        }
        for own in known_models()
    ]


def formats() -> Lines:
    from reflora_cli.cli.formats import NOTES

    return [
        {"name": name.value, "what": note.what, "read by": note.reader, "needs": note.needs, "to get it": note.missing}
        for name, note in NOTES.items()
    ]


LISTS: Mapping[Listed, Callable[[], Lines]] = {
    Listed.RECIPES: recipes,
    Listed.TASKS: tasks,
    Listed.METHODS: methods,
    Listed.MODELS: models,
    Listed.FORMATS: formats,
}


def refuse_no_recipe(command: str, arguments: str) -> NoReturn:
    """Show the bundled recipes. Raises InputError, because a recipe must be named. arguments: those of an example."""
    from reflora_cli.ground.errors import InputError, Problem

    show_lines(Listed.RECIPES, recipes(), ())
    expected = "the name of a bundled recipe, or a YAML file"
    others = "reflora list recipes WORD finds others, reflora show NAME --copy FILE starts yours"
    what, remedy = f"{command} needs a recipe", f"{command} {arguments}; {others}"
    raise InputError(Problem(what, expected=expected, remedy=remedy))
