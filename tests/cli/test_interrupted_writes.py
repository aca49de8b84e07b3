"""Merging that is out of room leaves nothing, and leftovers are told apart. Kills: `tests/robustness/writes.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_a_full_disk_is_one_clear_message(trained: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for it."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)); "
    run = f"from reflora_cli.cli import app; app(['merge', {str(trained)!r}, '--output', {str(tmp_path / 'merged')!r}])"
    done = subprocess.run(
        [sys.executable, "-c", limit + run], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
