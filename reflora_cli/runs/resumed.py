"""Keep in `resumed.jsonl` how often a run was continued from a checkpoint, and where.

The log is cut to the checkpoint and the checkpoint is older than the interruption, so neither can tell it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from reflora_cli.ground.atomic import readable_os_errors
from reflora_cli.runs.directory import RunDirectory

KEPT = ("device", "threads", "reflora", "python", "packages")
"""What of the environment may differ from that in which the run began."""


def record_resumed(run: RunDirectory, step: int, environment: Mapping[str, object]) -> None:
    """Append that the run continues after `step`, and in which environment."""
    line = {"step": step, **{key: environment[key] for key in KEPT}}
    with readable_os_errors(run.resumed), run.resumed.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def resumed_steps(run: RunDirectory) -> list[int]:
    """Return the steps after which the run was continued, oldest first; lines that cannot be read are left out."""
    try:
        lines = run.resumed.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [step for line in lines if (step := step_in(line)) is not None]


def step_in(line: str) -> int | None:
    """Return the step that a line names; None if it is damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
