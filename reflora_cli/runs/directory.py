"""Name the files of a run directory, check what may be there, and read its results.

How its files are written is in `atomic.py`; `metrics.jsonl` alone grows line by line.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from reflora_cli.ground.atomic import LOCK
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import exists, is_directory, is_file

CARD = "README.md"
"""The model card of an adapter directory."""
BESIDE = (
    "adapter_*", "reflora*", "tokenizer*", "chat_template*", "special_tokens_map*", "added_tokens*", "vocab*",
    "merges*", "spiece*", CARD,
)  # fmt: skip
"""Names of the files in `adapter/`, those of tokenizers and the card too."""
WANDB_ID = "wandb.json"
"""The file of a run directory that has the id under which wandb knows the run."""
CHECKPOINT = re.compile(r"step-([0-9]{6,15})(-stopped)?")


@dataclass(frozen=True)
class RunDirectory:
    """The files of one training run.

    other: the directory of an adapter that stands in the place of the run's own; the run's results are not its.
    """

    path: Path
    other: Path | None = None

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def adapter(self) -> Path:
        return self.other or self.path / "adapter"

    @property
    def after(self) -> Path:
        """The copy of the adapter from which the run began."""
        return self.path / "after"

    @property
    def results(self) -> Path:
        return (self.other or self.path) / "results.json"

    @property
    def probes(self) -> Path:
        return self.path / "probe_rows.jsonl"

    @property
    def resumed(self) -> Path:
        """The list of the steps after which the run was continued."""
        return self.path / "resumed.jsonl"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def confusion(self) -> Path:
        return self.path / "confusion.png"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"

    def stopped_checkpoint(self, step: int) -> Path:
        """Return the place of a checkpoint that a signal asked for; it stays until the next one that is due."""
        return self.path / "checkpoints" / f"step-{step:06d}-stopped"

    def checkpoints(self) -> list[Path]:
        """Return complete checkpoints, oldest first; one that was due counts as newer than a stopped one of the same
        step.

        Other names beside them, as that of a copy, are the user's.
        """
        try:
            names = [path.name for path in (self.path / "checkpoints").iterdir() if is_directory(path)]
        except OSError:
            return []
        found = [match for match in map(CHECKPOINT.fullmatch, names) if match]
        found.sort(key=lambda match: (int(match[1]), match[2] is None))
        return [self.path / "checkpoints" / match[0] for match in found]


def step_of(checkpoint: Path) -> int:
    """Return the step in a checkpoint's name."""
    return int(checkpoint.name.split("-")[1])


def open_run(path: Path, adapter: Path | None = None) -> RunDirectory:
    """Return a finished or running run. adapter: another adapter of its base, in the place of its own.

    Raises InputError when the directory is none.
    """
    run = RunDirectory(path, adapter)
    if not is_file(run.recipe):
        what = "this is not a run directory" if exists(path) else "the run directory does not exist"
        raise InputError(Problem(what, str(path), expected="a directory written by `reflora train`, with recipe.yaml"))
    return run


def default_output(task: str, method: str, seed: int) -> Path:
    """Return runs/TASK-METHOD-sSEED-DATE-TIME, with a number if it exists already."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return unused_name(Path("runs") / f"{task.rpartition('/')[2]}-{method}-s{seed}-{stamp}")


def unused_name(first: Path) -> Path:
    """Return a path, with a number behind it if it exists already."""
    numbered = (first.with_name(f"{first.name}-{number}") for number in range(2, 1000))
    return next((path for path in (first, *numbered) if not exists(path)), first)


def is_unused(path: Path) -> bool:
    """Whether a directory holds nothing but what a process that was killed at its start may leave."""
    return is_directory(path) and all(
        file.name == LOCK or file.name.startswith(".recipe.yaml.") for file in path.iterdir()
    )


def refuse_links(run: RunDirectory) -> None:
    """Raises InputError for a link among a run's own files: what is written must not leave the directory."""
    places = (run.path, run.adapter, run.path / "checkpoints")
    for path in (path for place in places if is_directory(place) for path in place.iterdir()):
        if path.is_symlink():
            what = "a link in the run directory would be written through"
            raise InputError(Problem(what, str(path), f"a link to {path.readlink()}", remedy="remove the link"))


def remove_strays(run: RunDirectory) -> None:
    """Remove what killed processes left half-written in a run that this process holds."""
    files = (run.recipe, run.environment, run.metrics, run.results, run.curves, run.confusion, run.probes)
    own = [*(file.name for file in files), run.curves.with_suffix(".svg").name, WANDB_ID]
    for folder, names in ((run.path, own), (run.adapter, BESIDE)):
        for place in (place for name in names for place in folder.glob(f".{name}.*")):
            place.unlink(missing_ok=True)
    for pattern in (".step-*", ".removed-step-*"):
        for place in (run.path / "checkpoints").glob(pattern):
            shutil.rmtree(place, ignore_errors=True)


class Results(BaseModel):
    """The part of `results.json` that programs read; the rest of it is for people."""

    model_config = ConfigDict(extra="allow", strict=True)

    main_metric: str
    scores: dict[str, dict[str, float]] | None
    before: dict[str, dict[str, float]] | None
    settings: dict[str, object]
    selected_step: int
    seconds: float
    seconds_per_epoch: float


def read_environment(run: RunDirectory) -> dict[str, Any] | None:
    """Return what `environment.json` holds; None if it is missing or damaged."""
    try:
        return dict(json.loads(run.environment.read_text(encoding="utf-8"))) if is_file(run.environment) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def read_results(run: RunDirectory) -> dict[str, Any] | None:
    """Return what `results.json` holds; None for a run that is not finished. Raises InputError for a damaged file."""
    if not is_file(run.results):
        return None
    try:
        content = run.results.read_bytes()
        Results.model_validate_json(content)
        return dict(json.loads(content))
    except (OSError, ValueError, RecursionError) as error:
        remedy = "remove the file; `reflora train ... --resume` writes it again"
        first = str(error).partition("\n")[0]
        raise InputError(Problem("the file is damaged", str(run.results), first, remedy=remedy)) from error
