"""Every name has an answer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reflora_cli.ground.paths import exists, expanded, is_directory, is_file


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "nowhere/at/all", "\udcff"])
def test_names_that_no_file_has(name: str) -> None:
    assert not exists(Path(name))
    assert not is_file(Path(name))
    assert not is_directory(Path(name))


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert exists(tmp_path / "pipe")
    assert not is_file(tmp_path / "pipe")
    assert is_file(tmp_path / "link")
    assert is_directory(tmp_path)


def test_home_directories_of_nobody_are_names() -> None:
    assert expanded("~nosuchuser/x") == Path("~nosuchuser/x")
    assert expanded("~/x") == Path.home() / "x"
