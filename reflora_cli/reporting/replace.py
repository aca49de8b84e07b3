"""Write a directory in the place of an earlier one of its kind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reflora_cli.ground.atomic import readable_os_errors, write_directory
from reflora_cli.ground.paths import exists


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary directory that takes the place of `path` when the block succeeds. Until it is whole the earlier
    directory stays; a process that is killed between the two renames leaves both, under names that begin with a dot.
    """
    if not exists(path):
        with write_directory(path) as folder:
            yield folder
        return
    new, old = (path.with_name(f".{path.name}.{word}") for word in ("new", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    with write_directory(new) as folder:
        yield folder
    with readable_os_errors(path):
        path.rename(old)
        new.rename(path)
    shutil.rmtree(old, ignore_errors=True)
