"""Write files and directories that are whole or absent, and lock a directory.

A file is written beside its place, flushed to the disk and renamed, and so is a directory. A reader, or a run that
continues after a crash, never sees half a file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import platform
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reflora_cli.ground.errors import InputError, Problem, RefloraError
from reflora_cli.ground.paths import exists

LOCK = ".lock"
"""The file that is locked by the process that writes to its directory."""
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free space, or choose another --output"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose another --output, or change the permissions"),
}
OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""The system's error number in messages of libraries written in Rust, whose exceptions are not Python's."""
UNLOCKABLE = (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK)
"""Error numbers of a file system without locks, on which two processes cannot be kept apart."""


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock a directory for this process and create it if it does not exist. The system releases the lock when the
    process ends, however it ends.

    A new directory that is still empty at the end is removed again. Raises InputError when another process has the
    lock.
    """
    made = [place for place in (path, *path.parents) if not exists(place)]
    with readable_os_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    held = False
    try:
        hold(descriptor, path)
        held = True
        yield
    finally:
        if held and is_there(descriptor, path):
            with contextlib.suppress(OSError):
                (path / LOCK).unlink()
        os.close(descriptor)
        for place in made:
            with contextlib.suppress(OSError):
                place.rmdir()  # wrong input leaves nothing behind


def hold(descriptor: int, path: Path) -> None:
    """Lock an open file. Raises InputError when another process has it."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise InputError(Problem("this is not a lock file", str(path / LOCK), remedy="remove it"))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = is_there(descriptor, path)  # or its holder removed it, and another process may have made a new one
    except OSError as error:
        held = error.errno in UNLOCKABLE
    if not held:
        holder = os.pread(descriptor, 100, 0).decode(errors="replace") or "a process of unknown id"
        what = "another process is writing to the directory"
        raise InputError(Problem(what, str(path), found=holder, remedy="wait for it, or stop it"))
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)


def is_there(descriptor: int, path: Path) -> bool:
    """Whether the lock file in the directory is the one that is open."""
    try:
        return os.fstat(descriptor).st_ino == (path / LOCK).stat().st_ino
    except OSError:
        return False


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


def whole_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file that grows line by line. What follows the last whole one is cut off, when all have been
    taken. Raises InputError when the file cannot be read or written.
    """
    with readable_os_errors(path), path.open("r+b") as stream:
        whole = 0
        for line in stream:
            if not line.endswith(b"\n"):
                break
            yield line
            whole += len(line)
        stream.truncate(whole)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON; NaN and infinity are refused because they are not JSON."""
    write_file(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def write_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory that becomes `path` when the block succeeds, and is removed otherwise.

    What a killed process left of an earlier try is removed first. Raises InputError when `path` already exists: nothing
    is ever replaced.
    """
    if exists(path) or path.is_symlink():
        raise InputError(
            Problem("the output already exists", str(path), remedy="choose another --output, or remove it")
        )
    with readable_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.{this_host()}.{os.getpid()}-"))
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
    """Remove the temporary directories of `path` that ended processes of this machine have left."""
    prefix = f".{path.name}.{this_host()}."
    for place in path.parent.glob(f"{glob.escape(prefix)}*-*"):
        pid = place.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(place, ignore_errors=True)


def this_host() -> str:
    """Return the machine's name with only the characters that a file's name may have."""
    return re.sub(r"[^A-Za-z0-9]", "", platform.node())[:20] or "host"


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
    """Turn errors met while writing to `path`, as a full disk or a missing permission, into one clear message."""
    try:
        yield
    except RefloraError:
        raise
    except OSError as error:
        raise input_error(error, path) from error
    except Exception as error:
        if found := OS_ERROR.search(str(error)):
            number = int(found[1])
            raise input_error(OSError(number, os.strerror(number)), path) from error
        raise


def input_error(error: OSError, path: Path) -> InputError:
    """Return the InputError for an error met while writing to `path`; it may concern another file that was read."""
    where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
    written = where.is_relative_to(path.parent) or path.is_relative_to(where)
    what = f"cannot {'write' if written else 'read'}: {error.strerror or error}"
    return InputError(Problem(what, str(where), remedy=REMEDIES.get(error.errno or 0, "")))


def sync(path: Path) -> None:
    """Flush a file or a directory's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable, where the system lets directories be opened and flushed."""
    try:
        sync(path)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP):
            raise


def current_umask() -> int:
    """Return the process's file mode mask, which the system only tells while setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
