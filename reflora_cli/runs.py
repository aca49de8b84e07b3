"""The run directory: its names, and writes that are whole or absent.

Every file is written beside its place, flushed to the disk and renamed; a directory likewise. A reader, or a run that
comes back after a crash, never sees half a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from reflora_cli.errors import InputError, Problem


@dataclass(frozen=True)
class RunDirectory:
    """The files of one training run."""

    path: Path

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
        return self.path / "adapter"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"

    def stopped_checkpoint(self, step: int) -> Path:
        """One that a signal asked for: only until the next one that is due."""
        return self.path / "checkpoints" / f"step-{step:06d}-stopped"

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first; one that was due is newer than a stopped one of the same step."""
        found = (self.path / "checkpoints").glob("step-[0-9]*")
        return sorted(found, key=lambda path: (int(path.name.split("-")[1]), not path.name.endswith("-stopped")))


def open_run(path: Path) -> RunDirectory:
    """A finished or running run. Raises InputError when the directory is none."""
    run = RunDirectory(path)
    if not run.recipe.is_file():
        what = "the run directory does not exist" if not path.exists() else "this is not a run directory"
        raise InputError(Problem(what, str(path), expected="a directory written by `reflora train`, with recipe.yaml"))
    return run


def default_output(task: str, method: str) -> Path:
    """runs/TASK-METHOD-DATE-TIME."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{task.rpartition('/')[2]}-{method}-{stamp}"


LOCK = ".lock"
"""In a run directory: held by the process that writes there."""


def is_unused(path: Path) -> bool:
    """Whether a directory holds nothing but what a process that was killed at its start may leave."""
    return path.is_dir() and all(file.name == LOCK or file.name.startswith(".recipe.yaml.") for file in path.iterdir())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run directory, made where it is missing; the system lets go of it when the process ends, however it ends.

    Raises InputError when another process holds it.
    """
    with readable_os_errors(path):
        existed = path.is_dir()
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino != (path / LOCK).stat().st_ino:
                raise BlockingIOError  # its holder removed it, and another process may have made a new one
        except (BlockingIOError, FileNotFoundError):
            holder = os.pread(descriptor, 100, 0).decode(errors="replace") or "a process that does not say which"
            os.close(descriptor)
            what = "another process is at work in the run directory"
            raise InputError(Problem(what, str(path), found=holder, remedy="wait for it, or stop it")) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (path / LOCK).unlink()
        os.close(descriptor)
        if not existed:
            with contextlib.suppress(OSError):
                path.rmdir()  # wrong input leaves nothing behind


def remove_strays(run: RunDirectory) -> None:
    """Remove what killed processes left half-written in a run that this process holds."""
    files = (run.recipe, run.environment, run.metrics, run.results, run.curves)
    for folder, names in ((run.path, [file.name for file in files]), (run.adapter, ["adapter_*", "reflora*"])):
        for place in (place for name in names for place in folder.glob(f".{name}.*")):
            place.unlink(missing_ok=True)
    for pattern in (".step-*", ".removed-step-*"):
        for place in (run.path / "checkpoints").glob(pattern):
            shutil.rmtree(place, ignore_errors=True)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a whole file or nothing. Raises InputError when the place cannot be written."""
    data = content.encode() if isinstance(content, str) else content
    with readable_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o666 & ~current_umask())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


class Results(BaseModel):
    """What others read of `results.json`; the rest of it is for people."""

    model_config = ConfigDict(extra="allow", strict=True)
    scores: dict[str, dict[str, float]] | None
    settings: dict[str, object] = Field(default_factory=dict)
    selected_step: int


def read_results(run: RunDirectory) -> dict[str, Any] | None:
    """What `results.json` holds; None for a run that is not finished. Raises InputError for a damaged file."""
    if not run.results.is_file():
        return None
    try:
        content = run.results.read_bytes()
        Results.model_validate_json(content)
        return dict(json.loads(content))
    except (OSError, ValueError) as error:
        remedy = "remove the file; `reflora train ... --resume` writes it again"
        first = str(error).splitlines()[0]
        raise InputError(Problem("the file is damaged", str(run.results), first, remedy=remedy)) from error


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON; NaN and infinity are refused because they are not JSON."""
    write_file(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def write_directory(path: Path) -> Iterator[Path]:
    """A temporary directory that becomes `path` when the block ends well, and vanishes otherwise.

    What a killed process left of an earlier try is removed first. Raises InputError when `path` already exists: nothing
    is ever replaced.
    """
    if path.exists():
        raise InputError(
            Problem("the output already exists", str(path), remedy="choose another --output, or remove it")
        )
    with readable_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.{os.getpid()}-"))
        try:
            yield temporary
            mask = current_umask()
            os.chmod(temporary, 0o777 & ~mask)
            for file in temporary.rglob("*"):
                os.chmod(file, (0o777 if file.is_dir() else 0o666) & ~mask)
                sync(file)
            sync(temporary)
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_directory(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary directories of `path` whose process is no more."""
    for place in path.parent.glob(f".{glob.escape(path.name)}.*-*"):
        pid = place.name.removeprefix(f".{path.name}.").partition("-")[0]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(place, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """Whether there is such a process on this machine, ours or not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def readable_os_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and their like into one clear message."""
    try:
        yield
    except OSError as error:
        what = f"cannot write: {error.strerror or error}"
        raise InputError(
            Problem(what, str(error.filename or path), remedy="free space or choose another --output")
        ) from error


def sync(path: Path) -> None:
    """Flush a file or a directory's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable, where the system lets directories be opened."""
    with contextlib.suppress(PermissionError):
        sync(path)


def current_umask() -> int:
    """The process's file mode mask; the system only tells it while setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
