"""Every single file operation of a run fails once: what was saved must survive, and the run must be continued equal.

    python -m tests.robustness.faults [--variant reflora --every 1]

The operations are opening a file to write, writing to it (half of it arrives), flushing it to the disk, renaming,
removing and making a directory, inside the run directory. The k-th one of them raises an OSError, for every k in turn.
"""

from __future__ import annotations

import argparse
import collections
import errno
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tests.robustness.kills import whole
from tests.robustness.runs import VARIANTS, differences, fail, forked, preload, status_of, train_arguments

EVENTS = {"os.rename": "rename", "os.mkdir": "mkdir", "os.remove": "remove", "shutil.rmtree": "rmtree"}


class Fault:
    """Fails the k-th operation inside a directory; tells which one it was."""

    def __init__(self, number: int, place: Path, told: Path) -> None:
        self.left, self.place, self.told = number, str(place), told

    def count(self, what: str, path: object) -> None:
        if not isinstance(path, str | os.PathLike) or not str(path).startswith(self.place):
            return
        self.left -= 1
        if self.left == 0:
            name = Path(path).name
            self.told.write_text(f"{what} {name.split('.')[1] if name.startswith('.') else name}")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS:
            self.count(EVENTS[event], arguments[0])
        elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self.count("open", arguments[0])

    def install(self) -> None:
        """In this process, for the rest of its life."""
        from reflora_cli.training import checkpoint

        save_file, fsync, fdopen = checkpoint.save_file, os.fsync, os.fdopen

        def save_half(tensors: Any, path: Path) -> None:
            save_file(tensors, path)
            try:
                self.count("write", path)
            except OSError as error:
                os.truncate(path, path.stat().st_size // 2)
                raise SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from error

        def failing_fsync(descriptor: int) -> None:
            self.count("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        def failing_fdopen(descriptor: int, *arguments: Any, **options: Any) -> Any:
            stream = fdopen(descriptor, *arguments, **options)
            if "w" in "".join(map(str, arguments)):
                return HalfWriter(stream, lambda: self.count("write", os.readlink(f"/proc/self/fd/{descriptor}")))
            return stream

        checkpoint.save_file = save_half
        os.fsync, os.fdopen = failing_fsync, failing_fdopen
        sys.addaudithook(self.audit)


class HalfWriter:
    """A stream of which half arrives when its check fails."""

    def __init__(self, stream: Any, check: Callable[[], None]) -> None:
        self.stream, self.check = stream, check

    def write(self, data: bytes) -> None:
        self.stream.write(data[: len(data) // 2])
        self.check()
        self.stream.write(data[len(data) // 2 :])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def __enter__(self) -> HalfWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()


def failing(variant: str, run: Path, log: Path, number: int, told: Path) -> int:
    """A run whose operation `number` fails; its status."""
    pid = os.fork()
    if pid:
        return status_of(pid)
    Fault(number, run, told).install()
    os._exit(128 if (status := status_of(forked(train_arguments(variant, run), log))) < 0 else status)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.faults", description=__doc__)
    parser.add_argument("--variant", choices=VARIANTS, default="reflora")
    parser.add_argument("--every", type=int, default=1, help="fail only every n-th operation")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    preload()
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as place:
        base = Path(os.path.realpath(place))
        log, run, told = base / "log", base / "run", base / "told"
        whole(chosen.variant, base / "whole", log)
        for number in itertools.count(1, chosen.every):
            status = failing(chosen.variant, run, log, number, told)
            if not told.exists():
                break  # there are no more operations
            operation = told.read_text()
            if status not in (0, 2) or "Traceback" in log.read_text():
                fail(f"operation {number}, {operation}: status {status}", log)
            if status and status_of(forked(train_arguments(chosen.variant, run), log)):
                fail(f"operation {number}, {operation}: it could not be continued", log)
            if found := differences(run, base / "whole"):
                fail(f"operation {number}, {operation}, status {status}: {found}", log)
            counts[f"status {status}  {operation.split()[0]}"] += 1
            for left in (run, told):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    for what, count in sorted(counts.items()):
        print(f"{count:4d}  {what}")


if __name__ == "__main__":
    main()
