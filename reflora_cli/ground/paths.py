"""Find out what is at a path without raising errors.

A name that no file can have, and a place that may not be read, count as empty.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether there is an ordinary file, or a link to one."""
    return stat.S_ISREG(kind(path))


def is_directory(path: Path) -> bool:
    return stat.S_ISDIR(kind(path))


def exists(path: Path) -> bool:
    return kind(path) != 0


def kind(path: Path) -> int:
    """Return the mode of what is there, links followed; 0 for nothing."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def expanded(name: str) -> Path:
    """Return the path that a user means: `~` is a home directory, if there is such a user."""
    return Path(os.path.expanduser(name))
