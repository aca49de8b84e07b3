"""`reflora doctor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reflora_cli.cli.guard import guarded, json_error, refuse_several_processes
from reflora_cli.cli.options import Json

if TYPE_CHECKING:
    from reflora_cli.diagnosing.finding import Finding
    from reflora_cli.ground.errors import InputError


def doctor_command(
    online: Annotated[bool, typer.Option("--online", help="Ask the hub too, over the network.")] = False,
    as_json: Json = False,
) -> None:
    """Say what this machine and installation can do, what is missing, and how to get it.

    Exit status: 2 if something is broken that every run needs; what only some runs need is a warning.

    Example: `reflora doctor --online`
    """
    with guarded():
        refuse_several_processes("reflora doctor")
        from reflora_cli.console.output import make_reporter, print_json, show_error
        from reflora_cli.diagnosing.examine import examine

        reporter = make_reporter()
        reporter.note("looking at versions, devices, disks and the hub")
        found: dict[str, Sequence[Finding]] = {}
        for title, findings in examine(online=online):
            found[title] = findings
            reporter.facts(title, {own.name: own.shown for own in findings})
        error = broken(found)
        if as_json:
            print_json(record(found) | ({} if error is None else told(error)))
        if error is not None:
            show_error(error.title, str(error))
            raise typer.Exit(error.exit_status)
        reporter.note(closing(found))


def told(error: InputError) -> dict[str, Any]:
    return json_error(error.title, error.problems, error.exit_status)


def broken(found: Mapping[str, Sequence[Finding]]) -> InputError | None:
    """Return an InputError with what is broken, None where nothing is."""
    from reflora_cli.diagnosing.finding import State
    from reflora_cli.ground.errors import InputError, Problem

    problems = [
        Problem(f"{own.name} is broken", title, own.value, remedy=own.remedy)
        for title, findings in found.items()
        for own in findings
        if own.state is State.BROKEN
    ]
    return InputError(*problems) if problems else None


def record(found: Mapping[str, Sequence[Finding]]) -> dict[str, Any]:
    """Return the findings as JSON has them."""
    return {title: [asdict(own) for own in findings] for title, findings in found.items()}


def closing(found: Mapping[str, Sequence[Finding]]) -> str:
    """Return the last line: that all is well, or how many warnings there are."""
    from reflora_cli.diagnosing.finding import State

    names = [own.name for findings in found.values() for own in findings if own.state is State.WARNING]
    return f"runs can work; warnings: {', '.join(names)}" if names else "all is well"
