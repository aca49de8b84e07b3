"""`reflora inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reflora_cli.cli.completion import complete_run
from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.opening import opened
from reflora_cli.cli.options import BasePlace, Json, output_option

if TYPE_CHECKING:
    from reflora_cli.console.reporter import Reporter
    from reflora_cli.inspecting.inspect import Inspection
    from reflora_cli.inspecting.modules import Module
    from reflora_cli.inspecting.summary import Group

WIDEST, WIDEST_KIND = 24, 18
"""The most characters of a module's path and of a kind in a table: tables fit 80 columns."""
MOST_DIGITS = 7
"""The most characters of a number in a table."""
COLUMNS = {
    "mods": "modules",
    "|dW|": "frobenius",
    "|dW|/|W|": "relative",
    "eff.rank": "effective_rank",
    "stable": "stable_rank",
    "dmag.": "magnitude",
    "1-cos": "direction",
}
OF_OTHER = {"cosine": "cosine", "phi out": "phi_columns", "phi in": "phi_rows"}
"""The columns of tables of groups, and the fields that they show."""


def inspect_command(
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="RUN|ADAPTER",
            help="A run, or an adapter directory, reflora's or PEFT's.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="OTHER",
            help="Another adapter of the same base, to compare with.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        output_option("Where to write the files [default: inspection/ in the first directory]."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=0, help="Number of most and least changed modules to list.")] = 5,
    base: BasePlace = None,
    as_json: Json = False,
) -> None:
    """Show what an adapter has changed, by kind of module and over depth: norms, ranks, balance, subspaces.

    Example: `reflora inspect runs/first` and `reflora inspect runs/first runs/second --top 3`
    """
    with guarded():
        refuse_several_processes("reflora inspect")
        reporter = opened(adapter if other is None else f"{adapter} and {other}")
        from reflora_cli.console.output import print_json
        from reflora_cli.inspecting.inspect import InspectRequest, inspect
        from reflora_cli.inspecting.written import as_json as as_object
        from reflora_cli.inspecting.written import check_place, write

        request = InspectRequest(adapter, other, base, output)
        check_place(request.place)
        found = inspect(request, reporter)
        reporter.note("drawing the figures")
        files = write(found, request.place)
        show(found, top, reporter)
        reporter.facts("files", {"directory": str(request.place), "written": told(files)})
        if as_json:
            print_json({**as_object(found), "output": str(request.place), "files": files})


def told(files: Sequence[str]) -> str:
    """Return names of files as they are shown."""
    figures = [name.removesuffix(".png") for name in files if name.endswith(".png")]
    return ", ".join([*(name for name in files if name.endswith((".json", ".csv"))), *figures]) + " (png, svg)"


def show(found: Inspection, top: int, reporter: Reporter) -> None:
    """Show what was found: groups, single modules, and what a reader must know."""
    show_groups("by kind of module", "kind", [*found.kinds, found.total], found)
    if len(found.depths) > 1:
        show_groups("over depth", "block", found.depths, found)
    show_extremes(found, top)
    for note in found.notes:
        reporter.note(note)


def show_groups(title: str, first: str, groups: Sequence[Group], found: Inspection) -> None:
    """Show a table with a line for every group, and one of the comparison with another adapter."""
    from reflora_cli.console.output import show_table

    show_table(title, [first, *COLUMNS], [cells(own, [*COLUMNS.values()]) for own in groups])
    if found.other is not None:
        columns = [*OF_OTHER.values()]
        rows = [cells(own, columns) for own in groups]
        show_table(f"{title}, compared with {shortened(found.other)}", [first, *OF_OTHER], rows)


def cells(own: Group, fields: Sequence[str]) -> list[str]:
    """Return a group as a table has it."""
    return [shortened(own.name, WIDEST_KIND), *(number(getattr(own, field)) for field in fields)]


def show_extremes(found: Inspection, top: int) -> None:
    """Show the most and the least changed modules; no module stands in both tables."""
    from reflora_cli.console.output import show_table
    from reflora_cli.inspecting.summary import ordered

    modules = ordered(found.modules)
    most, rest = modules[:top], modules[top:]
    columns = ["module", "|dW|", "|dW|/|W|", "eff.rank", "cond.", "|B|/|A|"]
    for title, own in (("most changed", most), ("least changed", rest[-top:][::-1] if top else [])):
        if own:
            show_table(title, columns, [line(module) for module in own])


def line(own: Module) -> list[str]:
    """Return a module as a table has it."""
    values = (
        own.frobenius,
        own.relative_frobenius,
        own.low_rank.effective_rank if own.low_rank else None,
        own.trained.condition if own.trained else None,
        own.balance.ratio if own.balance else None,
    )
    return [shortened(own.module), *map(number, values)]


def number(value: float | None) -> str:
    """Return a number with three digits that mean something, or with two if it is too long; a line where none is
    known.
    """
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    text = f"{value:.3g}"
    return text if len(text) <= MOST_DIGITS else f"{value:.2g}"


def shortened(path: str, most: int = WIDEST) -> str:
    """Return a path that is too long without some of its first parts."""
    if len(path) <= most:
        return path
    parts = path.split(".")
    ends = (".".join(parts[first:]) for first in range(1, len(parts)))
    return next((f"..{end}" for end in ends if len(end) + 2 <= most), f"..{path[2 - most :]}")
