"""Writes are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reflora_cli.errors import InputError
from reflora_cli.runs import RunDirectory, open_run, write_directory, write_file, write_json


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*"))


def test_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "file.txt"
    write_file(target, "first")
    write_file(target, b"second")
    assert target.read_text() == "second"
    assert names(tmp_path) == ["a", "file.txt"]


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file.txt"
    write_file(target, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_file(target, "new")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_json_refuses_what_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert names(tmp_path) == []


def test_directory_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    with write_directory(tmp_path / "out") as directory:
        (directory / "file").write_text("x")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["file", "out"]
    assert (tmp_path / "out" / "file").stat().st_mode & 0o077 == 0o666 & ~current_umask() & 0o077


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_directory_vanishes_when_the_block_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with write_directory(tmp_path / "out") as directory:
            (directory / "file").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == []


def test_nothing_that_exists_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="already exists"), write_directory(tmp_path / "out"):
        pass


def test_a_run_is_a_directory_with_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run directory"):
        open_run(tmp_path)
    (tmp_path / "recipe.yaml").write_text("")
    assert open_run(tmp_path) == RunDirectory(tmp_path)


def test_checkpoints_come_in_the_order_of_their_steps(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step in (1000000, 20, 5):
        run.checkpoint(step).mkdir(parents=True)
    (tmp_path / "checkpoints" / ".step-000030.tmp").mkdir()
    assert [path.name for path in run.checkpoints()] == ["step-000005", "step-000020", "step-1000000"]
