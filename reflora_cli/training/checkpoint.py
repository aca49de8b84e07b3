"""Checkpoints: all that continuing a run needs, as safetensors and JSON.

trained.safetensors     every trained parameter by its full name, and what the adapter layers cannot do without beside
optimizer.safetensors   the optimizer's moments by parameter name, the update rule's counters and cached matrices
random.safetensors      the generators of every process
best.safetensors        the best adapter so far, as in `adapter/`
state.json              step, best score so far, time spent, what was summed since the last logged step
manifest.json           size and sha256 of every file: what is damaged or incomplete is never continued from
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import TypedDict

from reflora_cli.ground.atomic import readable_os_errors, write_directory
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import exists
from reflora_cli.runs.directory import RunDirectory, step_of
from reflora_cli.training.step_times import StepTimes
from reflora_cli.training.trend import LossTrend

TENSOR_FILES = ("trained", "optimizer", "random", "best")
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 100_000
"""The most bytes of a manifest; ours have some hundred."""


@dataclass
class Window:
    """Sums since the last logged step."""

    loss: float = 0.0
    steps: int = 0
    rows: int = 0
    seconds: float = 0.0

    def add(self, loss: float, rows: int, seconds: float) -> None:
        self.loss += loss
        self.steps += 1
        self.rows += rows
        self.seconds += seconds


Step = Annotated[int, Field(ge=0, lt=10**15)]


class Evaluation(TypedDict):
    """One evaluation of a run: the step after which it was made, and the scores by split."""

    step: Step
    scores: dict[str, dict[str, float]]


@dataclass
class Progress:
    """What advances during training beside the tensors; all of it is in every checkpoint.

    skipped: the number of steps that float16's loss scaler dropped for an overflow. evaluated: the step after which the
    last evaluation was made. lines: the number of lines in metrics.jsonl. trend: that of the losses. scaler: the state
    of float16's loss scaler, which keeps whole numbers and others apart. report: what is known beyond scores of the
    adapter that is kept, by split. seconds: those of all steps, and times: how long each of them took.
    evaluation_seconds: those of all evaluations that were finished. compile_seconds: those that compiling took, which
    are in no step's. first_loss, last_loss: the losses of the first and the last logged step; a run that an older
    version began does not know the first one.
    """

    step: Step = 0
    skipped: Step = 0
    evaluated: int = -1
    lines: Step = 0
    seconds: float = 0.0
    window: Window = field(default_factory=Window)
    trend: LossTrend = field(default_factory=LossTrend)
    scaler: dict[str, int | float] = field(default_factory=dict)
    best_step: Step | None = None
    best_score: float | None = None
    before: dict[str, dict[str, float]] | None = None
    history: list[Evaluation] = field(default_factory=list)
    report: dict[str, dict[str, Any]] = field(default_factory=dict)
    times: StepTimes = field(default_factory=StepTimes)
    evaluation_seconds: float = 0.0
    compile_seconds: float = 0.0
    first_loss: float | None = None
    last_loss: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read. best: the best adapter so far, under PEFT's keys; empty before there is one."""

    trained: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    best: dict[str, Tensor]
    progress: Progress


def save_checkpoint(run: RunDirectory, checkpoint: Checkpoint, keep: int) -> None:
    """Write `checkpoints/step-N`; when it is verified, remove earlier ones except the newest `keep`.

    Earlier ones that a signal asked for are removed too. Later ones stay: a run that passed over damaged ones writes
    them again. Raises InputError when the checkpoint cannot be written.
    """
    step = checkpoint.progress.step
    write_checkpoint(run.checkpoint(step), checkpoint)
    earlier = [path for path in run.checkpoints() if step_of(path) <= step]
    due = [path for path in earlier if path == run.checkpoint(step_of(path))]
    for old in (*due[:-keep], *(path for path in earlier if path not in due)):
        discard(old)


def save_stopped(run: RunDirectory, checkpoint: Checkpoint) -> Path:
    """Write `checkpoints/step-N-stopped`, and remove earlier ones of this kind. Raises as `save_checkpoint`."""
    step = checkpoint.progress.step
    path = run.stopped_checkpoint(step)
    write_checkpoint(path, checkpoint)
    for old in run.checkpoints():
        if step_of(old) < step and old == run.stopped_checkpoint(step_of(old)):
            discard(old)
    return path


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole or not at all, and verify it. A whole one that is there already stays; a damaged one
    is replaced.
    """
    if exists(path) and damage(path):
        discard(path)
    if not exists(path):
        with write_directory(path) as directory:
            for name in TENSOR_FILES:
                save_file(getattr(checkpoint, name), directory / f"{name}.safetensors")
            text = json.dumps(asdict(checkpoint.progress), allow_nan=False)
            (directory / "state.json").write_text(text, encoding="utf-8")
            (directory / MANIFEST).write_text(manifest_of(directory), encoding="utf-8")
    if found := damage(path):
        raise InputError(Problem("the checkpoint on the disk differs from what was written", str(path), found))


def discard(path: Path) -> None:
    """Remove a checkpoint so that a half-removed one is never seen."""
    with readable_os_errors(path):
        hidden = path.with_name(f".removed-{path.name}")
        shutil.rmtree(hidden, ignore_errors=True)
        os.rename(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def manifest_of(directory: Path) -> str:
    """Return sizes and digests of a directory's files. Raises OSError for one that is no ordinary file."""
    files = {}
    for name in (*(f"{name}.safetensors" for name in TENSOR_FILES), "state.json"):
        with ordinary(directory / name) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            files[name] = {"bytes": stream.tell(), "sha256": digest}
    return json.dumps(files, indent=1)


def ordinary(path: Path) -> BufferedReader:
    """Open a file that is not a link, and nothing from which reading would never end."""
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return path.open("rb")


def damage(path: Path) -> str:
    """Say what is wrong with a checkpoint on the disk; empty when every file is as it was written."""
    try:
        with ordinary(path / MANIFEST) as stream:
            written = stream.read(LARGEST_MANIFEST).decode()
        known = json.loads(written)
        wrong = [name for name, entry in known.items() if (path / name).lstat().st_size != entry["bytes"]]
        found = "" if wrong else manifest_of(path)
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError) as error:
        return f"not as it was written: {error}"
    if written == found:
        return ""
    digests = json.loads(found) if found else {}
    names = wrong or [name for name, entry in digests.items() if known.get(name) != entry]
    return f"not as it was written: {', '.join(map(str, names or [MANIFEST]))}"


def newest_whole(run: RunDirectory) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint that is whole, None when there is none at all, and what is wrong with newer ones.

    Raises InputError when there are checkpoints and all are damaged.
    """
    damaged: list[str] = []
    for path in reversed(run.checkpoints()):
        found = damage(path)
        if not found:
            return path, damaged
        damaged.append(f"{path}: {found}")
    if damaged:
        remedy = "restore one of the checkpoints, or start a new run with another --output"
        what = "every checkpoint of the run is damaged"
        raise InputError(Problem(what, str(run.path), "; ".join(damaged[:3]), remedy=remedy))
    return None, []


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a whole checkpoint. Raises InputError for one that this version cannot read."""
    with readable_here(path):
        trained, optimizer, generators, best = (load_file(path / f"{name}.safetensors") for name in TENSOR_FILES)
        progress = TypeAdapter(Progress).validate_json((path / "state.json").read_bytes(), strict=True)
    return Checkpoint(trained, optimizer, generators, best, progress)


def trained_tensors(path: Path) -> dict[str, Tensor]:
    """Return the trained tensors of a whole checkpoint by full name. Raises InputError as `load_checkpoint`."""
    with readable_here(path):
        return load_file(path / "trained.safetensors")


@contextmanager
def readable_here(path: Path) -> Iterator[None]:
    """Raises InputError for a checkpoint at `path` that this version cannot read."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        what = "the checkpoint was written by another version of reflora"
        raise InputError(Problem(what, str(path), str(error).partition("\n")[0])) from error


def restore_parameters(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: Path) -> None:
    """Copy the checkpoint's tensors into the trained parameters. Raises InputError unless names and shapes agree."""
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        what = "the checkpoint is not of this recipe: its trained tensors are others"
        raise InputError(Problem(what, str(where), found=", ".join(differing[:3])))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def random_state() -> dict[str, Tensor]:
    """Return the states of this process's generators: torch's on every device, numpy's and Python's."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "cpu": torch.get_rng_state(),
        **{f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())},
        "numpy": torch.tensor([*np.asarray(keys).tolist(), position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor(gauss, dtype=torch.float64),
        "python": torch.tensor(random.getstate()[1], dtype=torch.int64),
    }


def named_random_states(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the generator states of all processes as named tensors."""
    return {f"{rank}.{name}": state for rank, own in enumerate(states) for name, state in own.items()}


def restore_random_state(tensors: Mapping[str, Tensor], rank: int) -> None:
    """Restore this process's generators; a process that the checkpoint does not know keeps its own."""
    own = {key.partition(".")[2]: state for key, state in tensors.items() if key.partition(".")[0] == str(rank)}
    if not own:
        return
    torch.set_rng_state(own["cpu"])
    for index in range(torch.cuda.device_count()):
        if f"cuda{index}" in own:
            torch.cuda.set_rng_state(own[f"cuda{index}"], index)
    *keys, position, has_gauss = own["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, float(own["numpy_gauss"])))
    random.setstate((3, tuple(own["python"].tolist()), None))
