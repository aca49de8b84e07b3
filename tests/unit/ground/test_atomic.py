"""Writes are whole or absent, errors are readable, and a lock is held by one."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from reflora_cli.ground.atomic import (
    LOCK,
    locked,
    readable_os_errors,
    this_host,
    whole_lines,
    write_directory,
    write_file,
    write_json,
)
from reflora_cli.ground.errors import InputError


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


def test_lines_that_are_whole_are_kept_and_the_rest_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\n\ntwo\nthr")
    lines = whole_lines(path)
    assert next(lines) == b"one\n"
    assert path.read_bytes() == b"one\n\ntwo\nthr", "nothing is cut off before all lines were taken"
    assert list(lines) == [b"\n", b"two\n"]
    assert path.read_bytes() == b"one\n\ntwo\n"
    assert list(whole_lines(path)) == [b"one\n", b"\n", b"two\n"]
    with pytest.raises(InputError):
        next(whole_lines(tmp_path / "none"))


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


def failing(number: int, name: str | None = None) -> None:
    if name is None:
        raise OSError(number, os.strerror(number))
    raise OSError(number, os.strerror(number), name)


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "free space"), (errno.EROFS, "permissions"), (errno.EIO, "")]
)
def test_the_remedy_is_for_what_went_wrong(number: int, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught, readable_os_errors(tmp_path / "out"):
        failing(number)
    (problem,) = caught.value.problems
    assert problem.what == f"cannot write: {os.strerror(number)}"
    assert remedy in problem.remedy
    assert bool(problem.remedy) == bool(remedy)


def test_a_file_that_could_not_be_read_is_not_said_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read: No such file"), write_directory(tmp_path / "a" / "out"):
        failing(errno.ENOENT, "/somewhere/else")


def test_errors_of_libraries_written_in_rust_are_the_system_s_too(tmp_path: Path) -> None:
    def fail() -> None:
        with write_directory(tmp_path / "out"):
            raise SafetensorError("I/O error: No space left on device (os error 28)")

    with pytest.raises(InputError, match="No space left on device"):
        fail()
    assert names(tmp_path) == []


def test_a_lock_is_held_by_one_and_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "new" / "run"
    with locked(place):
        with pytest.raises(InputError, match=f"process {os.getpid()}"), locked(place):
            pass
        assert (place / LOCK).exists(), "he who did not get it must not remove it"
    assert names(tmp_path) == []


def test_a_lock_follows_no_link(tmp_path: Path) -> None:
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    run.mkdir()
    (run / LOCK).symlink_to(victim)
    with pytest.raises(InputError), locked(run):
        pass
    assert victim.read_text() == "precious"


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: failing(errno.ENOTSUP))
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).exists()


def test_leftovers_of_living_processes_and_of_other_machines_stay(tmp_path: Path) -> None:
    own = f".out.{this_host()}."
    kept = {f"{own}{os.getpid()}-abc", f".out.elsewhere.{4194304}-abc", ".out.notes-abc"}
    for name in (*kept, f"{own}{4194304}-abc"):
        (tmp_path / name).mkdir()
    with write_directory(tmp_path / "out"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"out", *kept}
