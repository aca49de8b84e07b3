"""The group of all commands: wrong usage is told like any other wrong input, with the nearest names."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from reflora_cli.cli.guard import answering_json, tell
from reflora_cli.ground.errors import InputError, Problem, RefloraError, near

UsageError: Any = typer.BadParameter.__base__
"""The parser's error for wrong usage: typer exports its subclasses only."""

WRONG_WORD = re.compile(r"Invalid value for (?P<where>.+?): .*?'(?P<found>[^']*)' is not one of (?P<words>.+?)\.?$")
"""The parser's message about a word that is not one of the allowed ones."""


class Commands(TyperGroup):
    """All commands by name. Wrong usage is an InputError: one panel, status 2, and JSON where `--json` asks for it."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        run = partial(super().main, args, prog_name, complete_var, False, windows_expand_args, **extra)
        with answering_json(asks_for_json(sys.argv[1:] if args is None else args)):
            return ended(run) if standalone_mode else run()

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if ctx.resilient_parsing or name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        expected = f"a command: {', '.join(self.commands)}"
        remedy = suggestion(name, self.commands, ctx.command_path)
        raise InputError(Problem("there is no such command", ctx.command_path, name, expected, remedy))


def ended(run: Callable[[], Any]) -> NoReturn:
    """Run a command and end the process with its status."""
    try:
        status = run() or 0
    except UsageError as error:
        status = told(wrong_usage(error))
    except RefloraError as error:
        status = told(error)
    except typer.Abort:
        status = 1
    sys.exit(status)


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Return whether `--json` is among the options of a command line."""
    given = list(arguments)
    return "--json" in given[: given.index("--") if "--" in given else len(given)]


def told(error: RefloraError) -> int:
    """Show an error and return its exit status."""
    tell(error)
    return error.exit_status


def wrong_usage(error: Any) -> InputError:
    """Return the parser's error in our terms, with the options most like an unknown one."""
    context = error.ctx
    if context is None:
        return InputError(Problem(error.format_message()))
    path = context.command_path
    if wrong := WRONG_WORD.fullmatch(error.format_message()):
        words = re.findall(r"'([^']*)'", wrong["words"])
        what, remedy = f"wrong value for {wrong['where']}", suggestion(wrong["found"], words, path)
        return InputError(Problem(what, path, wrong["found"], f"one of {', '.join(words)}", remedy))
    known = [name for own in context.command.get_params(context) for name in own.opts if name.startswith("-")]
    option = getattr(error, "option_name", None)
    if option is None or option in known:
        return InputError(Problem(error.format_message(), path, remedy=f"see {path} --help"))
    return InputError(Problem("there is no such option", path, option, remedy=suggestion(option, known, path)))


def suggestion(name: str, known: Iterable[str], path: str) -> str:
    """Return a remedy with the names most like one, or the help of a command where none is near."""
    return near(name, known) or f"see {path} --help"
