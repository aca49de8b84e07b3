"""Checkpoints: all that continuing a run needs, as safetensors and JSON.

trained.safetensors     every trained parameter by its full name
optimizer.safetensors   AdamW's moments by parameter name, the update rule's counters and cached matrices
random.safetensors      the generators of every process
state.json              step, best score so far, time spent
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reflora_cli.errors import InputError, Problem
from reflora_cli.runs import RunDirectory, write_directory

TENSOR_FILES = ("trained", "optimizer", "random")


@dataclass
class Progress:
    """What advances during training beside the tensors; all of it is in every checkpoint."""

    step: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_score: float | None = None
    before: dict[str, dict[str, float]] | None = None
    history: list[dict[str, object]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read."""

    trained: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    random: dict[str, Tensor]
    progress: Progress


def save_checkpoint(run: RunDirectory, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `checkpoints/step-N` whole or not at all, then remove all but the newest `keep`."""
    path = run.checkpoint(checkpoint.progress.step)
    if not path.exists():
        with write_directory(path) as directory:
            for name in TENSOR_FILES:
                save_file(getattr(checkpoint, name), directory / f"{name}.safetensors")
            text = json.dumps(asdict(checkpoint.progress), allow_nan=False)
            (directory / "state.json").write_text(text, encoding="utf-8")
    for old in run.checkpoints()[:-keep]:
        shutil.rmtree(old)
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises InputError when it is damaged."""
    try:
        trained, optimizer, random = (load_file(path / f"{name}.safetensors") for name in TENSOR_FILES)
        progress = Progress(**json.loads((path / "state.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        remedy = "remove this checkpoint to continue from the one before it"
        raise InputError(Problem("the checkpoint is damaged", str(path), str(error), remedy=remedy)) from error
    return Checkpoint(trained, optimizer, random, progress)


def restore_parameters(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], where: Path) -> None:
    """Copy the checkpoint's tensors into the trained parameters. Raises InputError unless names and shapes agree."""
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        what = "the checkpoint does not belong to this recipe: trained tensors differ"
        raise InputError(Problem(what, str(where), found=", ".join(differing[:3])))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def random_state() -> list[Tensor]:
    """The states of this process's torch generators: the CPU's, then every GPU's."""
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def named_random_states(states: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    """Generator states of all processes as named tensors."""
    return {f"{rank}.{device}": state for rank, own in enumerate(states) for device, state in enumerate(own)}


def restore_random_state(tensors: Mapping[str, Tensor], rank: int) -> None:
    """Restore this process's generators; a process that the checkpoint does not know keeps its own."""
    own = {int(key.split(".")[1]): state for key, state in tensors.items() if key.split(".")[0] == str(rank)}
    if 0 in own:
        torch.set_rng_state(own[0])
    for device in range(1, len(own)):
        if device <= torch.cuda.device_count():
            torch.cuda.set_rng_state(own[device], device - 1)
