"""Parts of a benchmark, each a process of its own with a limit on its time, so that a failure loses only itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SHOWN_LINES = 150
"""The lines of a part's output that are shown at most, the last ones."""


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
        """The part as Markdown: how it ended, and what it printed."""
        ended = {0: "done", None: "ended at its limit of time"}.get(self.status, f"failed with {self.status}")
        text = "\n".join(self.printed.strip().splitlines()[-SHOWN_LINES:])
        return f"## {name}: {ended}, {self.seconds:.0f} s\n\n```\n{text}\n```\n"


def run(part: Part, seconds: float) -> Outcome:
    """Run a part for at most so many seconds. Its last line on stdout holds its figures where that line is JSON."""
    begin = time.monotonic()
    status, out, err = ended(part, seconds)
    lines = out.splitlines()
    try:
        figures = json.loads(lines[-1])
        lines.pop()
    except (IndexError, ValueError):
        figures = None
    return Outcome(status, figures, "\n".join((*lines, err)), time.monotonic() - begin)


def ended(part: Part, seconds: float) -> tuple[int | None, str, str]:
    """Run a part to its end; return its exit status, None where it was killed for its time, and stdout and stderr.

    A part is killed with all processes that it started: they would disturb the parts after it.
    """
    command = [sys.executable, *part.arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, *process.communicate()
        except BaseException:  # an interruption, which does not reach a session of its own
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, out, err


def run_all(parts: Mapping[str, Part], limit: float) -> Iterator[tuple[str, Outcome]]:
    """Run the parts in turn, within `limit` seconds together: one that begins late gets what is left of them."""
    end = time.monotonic() + limit
    for name, part in parts.items():
        left = end - time.monotonic()
        if left < 5:
            yield name, Outcome(None, None, "not begun: the time of all parts was over", 0.0)
        else:
            yield name, run(part, min(part.seconds, left))


def figures_of(found: Mapping[str, Outcome]) -> dict[str, Any]:
    """The figures of those parts that ended well and have some."""
    return {name: own.figures for name, own in found.items() if own.status == 0 and own.figures}
