"""Look at the disks and caches that runs use."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reflora_cli.diagnosing.finding import Finding, State, gigabytes
from reflora_cli.ground.paths import exists

LEAST = 5e9
"""The free bytes below which a disk is warned of: a checkpoint of a small model and its cache need as many."""


def places() -> Iterator[Finding]:
    """Yield the free space of the working directory, the hub's cache and the temporary files, and the cache's size."""
    from huggingface_hub import constants

    from reflora_cli.model.known import cached_sizes

    cache = Path(constants.HF_HUB_CACHE)
    yield place("working directory", Path.cwd(), "free some space, or name another disk by --output")
    yield place("hub cache", cache, "`hf cache prune` removes what is not needed; HF_HOME names another place")
    yield place("temporary files", Path(tempfile.gettempdir()), "TMPDIR names another place")
    sizes = cached_sizes()
    yield Finding("models in the cache", f"{len(sizes)}, {gigabytes(sum(sizes.values()))}")


def place(name: str, path: Path, remedy: str) -> Finding:
    """Return the finding about the disk of a path, which need not be there yet."""
    there = next(own for own in (path, *path.parents) if exists(own))
    if not os.access(there, os.W_OK):
        return Finding(name, f"{path} cannot be written", State.WARNING, remedy)
    free = shutil.disk_usage(there).free
    value = f"{path}, {gigabytes(free)} free"
    return Finding(name, value) if free >= LEAST else Finding(name, value, State.WARNING, remedy)
