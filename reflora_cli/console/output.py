"""Show errors, tables and results, in the form that suits the place where the command runs.

Everything but a command's JSON goes to stderr: a live display on a terminal, plain lines elsewhere or under NO_COLOR.
rich is imported only for a terminal, so that a command in a pipe starts sooner.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from reflora_cli.console.plain import PlainReporter
from reflora_cli.console.reporter import Reporter
from reflora_cli.console.stream import is_terminal, say


def make_reporter() -> Reporter:
    """Return the live display on a terminal, plain lines elsewhere."""
    if not is_terminal():
        return PlainReporter()
    from reflora_cli.console.terminal import RichReporter

    return RichReporter()


def show_error(title: str, text: str) -> None:
    """Show one panel on a terminal, one block of plain lines elsewhere."""
    if not is_terminal():
        say(f"{title}: {text}")
        return
    from reflora_cli.console.terminal import terminal_error

    terminal_error(title, text)


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Show a table on stderr."""
    if is_terminal():
        from reflora_cli.console.terminal import terminal_table

        terminal_table(title, columns, rows)
        return
    widths = [max(len(str(cell)) for cell in column) for column in zip(columns, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (columns, *rows)]
    say("\n".join([title, *map(str.rstrip, lines)]))


def print_json(value: Any) -> None:
    """Print one JSON object on stdout, the only thing a command prints there. Characters that its encoding lacks are
    escaped. Nothing is printed where stdout was closed or its reader has ended.
    """
    if sys.stdout is None:
        return
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False)
    with outliving_reader():
        print(text, flush=True)


def print_lines(values: Sequence[Any]) -> None:
    """Print one JSON object in each line of stdout."""
    for value in values:
        print_json(value)


@contextmanager
def outliving_reader() -> Iterator[None]:
    """End the block quietly when the program that reads stdout has ended, as `head` does when it has seen enough."""
    try:
        yield
    except BrokenPipeError:
        # Python writes what is left in its buffer when it ends, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def unused_stdout() -> Iterator[None]:
    """Discard what libraries print on stdout, compiled ones included, because stdout is for a command's JSON."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # stdout is closed
        yield
        return
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
