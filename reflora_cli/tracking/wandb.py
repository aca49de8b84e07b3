"""Log to Weights & Biases, with its files in RUN/wandb."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import final

from reflora_cli.ground.atomic import write_json
from reflora_cli.runs.directory import WANDB_ID
from reflora_cli.tracking.tracker import Tracked

PROJECT = "reflora"


@final
class WandbTracker:
    """A run of wandb. A continued run goes on under the id that it began with; its server shows repeated steps once,
    and offline each start has a directory of its own. What wandb reads from the environment (WANDB_MODE,
    WANDB_PROJECT, ...) holds here too.
    """

    def __init__(self, run: Tracked) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run_id(run.path / WANDB_ID),
            resume="allow",
            dir=run.path,
            config=dict(run.settings),
            settings=wandb.Settings(console="off", silent=True),  # stdout is for a command's JSON
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, status: int) -> None:
        self._run.finish(exit_code=status)


def run_id(place: Path) -> str:
    """Return the id that a file has, or a new one, which the file then has."""
    try:
        known = json.loads(place.read_text(encoding="utf-8"))["id"]
        if isinstance(known, str) and known:
            return known
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    fresh = secrets.token_hex(4)
    write_json(place, {"id": fresh})
    return fresh
