"""Where a run cannot be written, the reason is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.planning.disk import writable_parent


def test_the_nearest_existing_directory_is_found(tmp_path: Path) -> None:
    assert writable_parent(tmp_path / "a" / "b") == tmp_path


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="file is not a directory"):
        writable_parent(tmp_path / "file" / "run")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a system without /proc")
def test_a_system_s_own_directory_is_not_called_full() -> None:
    with pytest.raises(InputError) as caught:
        writable_parent(Path("/proc/run"))
    assert "cannot be written" in caught.value.problems[0].what
    assert "/proc" in caught.value.problems[0].found
