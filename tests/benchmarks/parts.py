"""Parts of a benchmark, each a process of its own with a limit on its time, so that a failure loses only itself."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """What one process runs (the arguments of Python) and how many seconds it may take."""

    arguments: tuple[str, ...]
    seconds: float

    @property
    def command(self) -> str:
        return " ".join(("python", *self.arguments))


@dataclass(frozen=True)
class Outcome:
    """How a part ended: its exit status (None where its time ran out), its figures, what it printed, seconds."""

    status: int | None
    figures: Any
    printed: str
    seconds: float

    def shown(self, name: str) -> str:
        """The part as Markdown: its tables, or the end of what it printed where it failed."""
        ended = {0: "done", None: "ended at its limit of time"}.get(self.status, f"failed with {self.status}")
        kept = 60 if self.status == 0 else 150
        text = "\n".join(self.printed.strip().splitlines()[-kept:])
        return f"## {name}: {ended}, {self.seconds:.0f} s\n\n```\n{text}\n```\n"


def run(part: Part, seconds: float) -> Outcome:
    """Run a part for at most so many seconds. Its last line on stdout holds its figures where that line is JSON."""
    begin = time.monotonic()
    status: int | None = None
    try:
        done = subprocess.run(
            [sys.executable, *part.arguments], capture_output=True, text=True, timeout=seconds, check=False
        )
        status, out, err = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        out, err = decoded(late.stdout), decoded(late.stderr)
    lines = out.splitlines()
    try:
        figures = json.loads(lines[-1])
        lines.pop()
    except (IndexError, ValueError):
        figures = None
    return Outcome(status, figures, "\n".join((*lines, err)), time.monotonic() - begin)


def run_all(parts: Mapping[str, Part], limit: float) -> Iterator[tuple[str, Outcome]]:
    """Run the parts in turn, within `limit` seconds together: one that begins late gets what is left of them."""
    end = time.monotonic() + limit
    for name, part in parts.items():
        left = end - time.monotonic()
        if left < 5:
            yield name, Outcome(None, None, "not begun: the time of all parts was over", 0.0)
        else:
            yield name, run(part, min(part.seconds, left))


def decoded(output: bytes | str | None) -> str:
    """What a process that was ended had printed."""
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
