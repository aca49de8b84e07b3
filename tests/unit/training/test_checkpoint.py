"""Checkpoints on disk: which stay, which are seen to be damaged, and what is never read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from reflora_cli.ground.errors import InputError
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.training.checkpoint import (
    Checkpoint,
    Progress,
    damage,
    load_checkpoint,
    manifest_of,
    newest_whole,
    save_checkpoint,
    save_stopped,
)


def at(step: int) -> Checkpoint:
    tensor = {"x": torch.full((50,), float(step))}
    return Checkpoint(tensor, tensor, {"0.cpu": torch.get_rng_state()}, {}, Progress(step=step, best_score=0.5))


def spoil(path: Path) -> None:
    content = bytearray((path / "trained.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "trained.safetensors").write_bytes(content)


def steps(run: RunDirectory) -> list[str]:
    return [path.name.removeprefix("step-").lstrip("0") for path in run.checkpoints()]


def test_the_newest_stay(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step in (2, 4, 6):
        save_checkpoint(run, at(step), keep=2)
    assert steps(run) == ["4", "6"]
    assert load_checkpoint(run.checkpoint(6)).progress.best_score == 0.5


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_ones_that_were_passed_over_never_outlive_whole_ones(keep: int, tmp_path: Path) -> None:
    """8 and 12 are damaged, the run goes on from 4: what it writes then must stay."""
    run = RunDirectory(tmp_path)
    for step in (4, 8, 12):
        save_checkpoint(run, at(step), keep=3)
    for step in (8, 12):
        spoil(run.checkpoint(step))
    assert newest_whole(run)[0] == run.checkpoint(4)
    save_checkpoint(run, at(6), keep)
    assert newest_whole(run)[0] == run.checkpoint(6)
    save_checkpoint(run, at(8), keep)
    assert damage(run.checkpoint(8)) == ""
    assert newest_whole(run)[0] == run.checkpoint(8)


def test_stopped_ones_last_until_the_next(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    save_checkpoint(run, at(2), keep=2)
    for step in (3, 5, 7):
        save_stopped(run, at(step))
    assert steps(run) == ["2", "7-stopped"]
    save_checkpoint(run, at(8), keep=2)
    assert steps(run) == ["2", "8"]


def test_a_user_s_copy_is_neither_counted_nor_removed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    save_checkpoint(run, at(2), keep=1)
    copy = shutil.copytree(run.checkpoint(2), tmp_path / "checkpoints" / "step-000002.bak")
    for step in (4, 6):
        save_checkpoint(run, at(step), keep=1)
    assert steps(run) == ["6"]
    assert damage(copy) == ""


@pytest.mark.parametrize("name", ["trained.safetensors", "state.json", "manifest.json", "best.safetensors"])
@pytest.mark.parametrize("what", ["pipe", "link to a device", "directory", "missing", "longer", "empty"])
def test_whatever_is_no_whole_file_is_damage(name: str, what: str, tmp_path: Path) -> None:
    """And none of it is read for ever."""
    run = RunDirectory(tmp_path)
    save_checkpoint(run, at(2), keep=1)
    file = run.checkpoint(2) / name
    content = file.read_bytes()
    file.unlink()
    match what:
        case "pipe":
            os.mkfifo(file)
        case "link to a device":
            file.symlink_to("/dev/zero")
        case "directory":
            file.mkdir()
        case "longer":
            file.write_bytes(content + b" ")
        case "empty":
            file.write_bytes(b"")
    assert damage(run.checkpoint(2)).startswith("not as it was written")
    with pytest.raises(InputError, match="every checkpoint of the run is damaged"):
        newest_whole(run)


@pytest.mark.parametrize(
    "change", [{"step": "abc"}, {"step": -3}, {"history": "x"}, {"seconds": None}, {"window": 5}, {"trend": [1]}]
)
def test_a_state_of_wrong_types_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    """With a manifest that fits it: somebody else's, or another version's."""
    run = RunDirectory(tmp_path)
    save_checkpoint(run, at(2), keep=1)
    path = run.checkpoint(2)
    state = json.loads((path / "state.json").read_text()) | change
    (path / "state.json").write_text(json.dumps(state))
    (path / "manifest.json").write_text(manifest_of(path))
    assert damage(path) == ""
    with pytest.raises(InputError, match="another version"):
        load_checkpoint(path)
