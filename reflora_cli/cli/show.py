"""`reflora show`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from reflora_cli.cli.completion import complete_name
from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.method_table import show_all
from reflora_cli.cli.names import Sort, sorts_of
from reflora_cli.cli.options import Json, Overrides, refuse_option_as_path
from reflora_cli.cli.shown import SHOWN

ALL = "methods"
"""What is shown as a table."""


def show_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A recipe, task, method, recipe key, format or base; methods: a table of all methods.",
            show_default=False,
            autocompletion=complete_name,
        ),
    ],
    overrides: Overrides = None,
    sort: Annotated[Sort | None, typer.Option("--as", help="The sort of thing, if several have this name.")] = None,
    copy: Annotated[
        Path | None,
        typer.Option(
            "--copy",
            metavar="FILE",
            help="Write the recipe with all its keys to a new file.",
            callback=refuse_option_as_path,
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="NAME",
            help="methods: count parameters on this base [default: microsoft/deberta-v3-base].",
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", min=1, help="methods: count parameters at this rank [default: 8].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show one thing in full: a recipe with every key and where it was set, a task, a method, the meaning of a key.

    A recipe goes to standard output as YAML that can be run.

    Example: `reflora show glue/cola --copy mine.yaml` and `reflora show train.learning_rate`
    """
    with guarded():
        refuse_several_processes("reflora show")
        from reflora_cli.console.output import print_json

        if name == ALL:
            record = show_all(base, rank)
        else:
            refuse_idle(name, base, rank)
            chosen = chosen_sort(name, sort)
            if chosen is Sort.RECIPE:
                show_recipe(name, overrides or (), copy, as_json=as_json)
                return
            refuse_of_recipes(name, chosen, overrides or (), copy)
            record = SHOWN[chosen](name)
        if as_json:
            print_json(record)


def chosen_sort(name: str, asked: Sort | None) -> Sort:
    """Return what is shown of the things with a name, and say which others there are. Raises InputError where nothing,
    or nothing of the sort that is asked for, has the name.
    """
    from reflora_cli.console.output import make_reporter
    from reflora_cli.ground.errors import InputError, Problem

    found = sorts_of(name)
    if asked is not None and asked not in found:
        what, expected = f"no {asked} has this name", f"it is {' and '.join(f'a {own}' for own in found)}"
        raise InputError(Problem(what, "--as", name, expected, f"reflora show {name}"))
    first = asked or found[0]
    for other in found:
        if other is not first:
            make_reporter().note(f"{name} is shown as a {first}; it is a {other} too: --as {other}")
    return first


def refuse_of_recipes(name: str, sort: Sort, overrides: Sequence[str], copy: Path | None) -> None:
    """Raises InputError for what is said of recipes beside something else."""
    from reflora_cli.ground.errors import InputError, Problem

    given = [*overrides, *(["--copy"] if copy is not None else [])]
    if given:
        what = "only recipes can be overridden and copied"
        raise InputError(Problem(what, name, ", ".join(given), f"a recipe; this is a {sort}"))


def refuse_idle(name: str, base: str | None, rank: int | None) -> None:
    """Raises InputError for options of the table beside the name of one method."""
    from reflora_cli.ground.errors import InputError, Problem

    given = [option for option, value in (("--base", base), ("--rank", rank)) if value is not None]
    if given:
        what, remedy = (
            "--base and --rank are only for the table of all methods",
            f"reflora show {ALL} {' '.join(given)} ...",
        )
        raise InputError(Problem(what, name, ", ".join(given), remedy=remedy))


def show_recipe(name: str, overrides: Sequence[str], copy: Path | None, *, as_json: bool) -> None:
    """Show a recipe in full, or write it to a file that is not there yet."""
    from reflora_cli.console.output import make_reporter, outliving_reader, print_json
    from reflora_cli.recipe.annotated import annotated

    own = annotated(name, overrides)
    if copy is not None:
        write_copy(copy, own.text)
        make_reporter().note(f"written: {copy}; reflora train {copy} trains it")
    if as_json:
        print_json({"recipe": own.values, "origins": own.origins, "copy": None if copy is None else str(copy)})
    elif copy is None:
        with outliving_reader():
            print(own.text, end="", flush=True)


def write_copy(place: Path, text: str) -> None:
    """Write a recipe. Raises InputError where something is there already: nothing is ever replaced."""
    from reflora_cli.ground.atomic import write_file
    from reflora_cli.ground.errors import InputError, Problem
    from reflora_cli.ground.paths import exists

    if exists(place):
        raise InputError(Problem("the file already exists", "--copy", str(place), remedy="name another file"))
    write_file(place, text)
