"""`reflora show`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.opening import opened
from reflora_cli.cli.options import Json

if TYPE_CHECKING:
    from reflora_cli.methods.describe import Described
    from reflora_cli.methods.measured import Measured
    from reflora_cli.methods.method import Method

ALL = "methods"
"""What is shown as a table."""


def show_command(
    name: Annotated[
        str, typer.Argument(metavar="methods|NAME", help="All methods, or one preset or choice.", show_default=False)
    ],
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="NAME", help="Count parameters on it [default: microsoft/deberta-v3-base]."),
    ] = None,
    rank: Annotated[int | None, typer.Option("--rank", min=1, help="Count at this rank [default: 8].")] = None,
    as_json: Json = False,
) -> None:
    """Show the methods: what they choose, what they train and cost, who proposed them. Or one of them in full.

    Example: `reflora show methods --base builtin:tiny-llama` and `reflora show lora-pro`
    """
    with guarded():
        refuse_several_processes("reflora show")
        from reflora_cli.methods.describe import described
        from reflora_cli.methods.presets import PRESETS

        if name == ALL:
            show_all([described(preset) for preset in PRESETS], base, rank, as_json=as_json)
        else:
            refuse_idle(name, base, rank)
            show_one(described(name), as_json=as_json)


def refuse_idle(name: str, base: str | None, rank: int | None) -> None:
    """Raises InputError for options of the table beside the name of one method."""
    from reflora_cli.ground.errors import InputError, Problem

    given = [option for option, value in (("--base", base), ("--rank", rank)) if value is not None]
    if given:
        what, remedy = (
            "parameters are counted for the table of all methods",
            f"reflora show {ALL} {' '.join(given)} ...",
        )
        raise InputError(Problem(what, name, ", ".join(given), remedy=remedy))


def show_all(found: Sequence[Described], base: str | None, rank: int | None, *, as_json: bool) -> None:
    """Show a table of presets."""
    reporter = opened("the shapes of the base")
    from reflora_cli.console.output import print_json, show_table
    from reflora_cli.methods.describe import listed
    from reflora_cli.methods.measured import measured
    from reflora_cli.model.counting import USUAL_BASE, counts

    costs, place = measured(), base or USUAL_BASE
    trained = counts(place, {own.name: method_of(own.name, rank) for own in found})
    rows = [
        {
            "preset": own.name,
            **{part.axis: part.kind for part in own.parts},
            "further": ", ".join(f"{key} {value}" for key, value in own.settings.items()),
            "parameters": trained[own.name],
            **cost_of(costs, own.name),
            "goes with": listed(own),
            "source": own.source,
        }
        for own in found
    ]
    show_table(f"methods, parameters trained on {place}", list(rows[0]), [[*map(cell, row.values())] for row in rows])
    if costs.setting:
        reporter.note(f"time of a step and memory for training, as multiples of LoRA's: {costs.setting}")
    if as_json:
        print_json({"base": place, "measured_on": costs.setting, "methods": rows})


def method_of(name: str, rank: int | None) -> Method:
    """Return a preset as a method, at a rank if it has one."""
    from reflora_cli.methods.method import Method

    method = Method(name=name)
    return method if rank is None or not method.layer.counts("rank") else Method(name=name, rank=rank)


def cost_of(costs: Measured, name: str) -> dict[str, float | None]:
    """Return the columns of what a preset costs; none where nothing was measured."""
    if not costs.costs:
        return {}
    own = costs.costs.get(name)
    return {"time": own.time if own else None, "memory": own.memory if own else None}


def cell(value: object) -> str:
    """Return a value as the table has it."""
    match value:
        case None:
            return ""
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.2f}"
        case _:
            return str(value)


def show_one(own: Described, *, as_json: bool) -> None:
    """Show one preset or choice: what it computes, its fields, and what it goes with."""
    from reflora_cli.console.output import make_reporter, print_json
    from reflora_cli.methods.describe import listed

    reporter = make_reporter()
    facts = {"source": own.source} if own.source else {}
    facts |= {key: str(value) for key, value in own.settings.items()}
    reporter.facts(own.name, {**facts, "goes with": listed(own)})
    for part in own.parts:
        fields = {f"{field.name} = {shown(field.default)}": field.description for field in part.fields}
        needs = {"needs": "; ".join(part.needs)} if part.needs else {}
        source = {"source": part.source} if part.source else {}
        reporter.facts(f"{part.axis} {part.kind}", {"what": part.formula, **source, **fields, **needs})
    if own.refusals:
        reporter.facts("refused", own.refusals)
    if as_json:
        print_json(asdict(own))


def shown(default: object) -> str:
    """Return a default as YAML has it."""
    return "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
