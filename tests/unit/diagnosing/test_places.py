"""Disks that are nearly full are warned of, and places that are not there yet are looked at where they will be."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from reflora_cli.diagnosing.finding import State
from reflora_cli.diagnosing.places import place

Usage = namedtuple("Usage", "total used free")


def test_a_place_that_is_not_there_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 50e9 if path == tmp_path else 0))
    found = place("cache", tmp_path / "not" / "there", "buy a disk")
    assert (found.state, found.value) == (State.OK, f"{tmp_path}/not/there, 50.0 GB free")


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 1e9))
    found = place("cache", tmp_path, "buy a disk")
    assert (found.state, found.shown) == (State.WARNING, f"WARNING: {tmp_path}, 1.0 GB free; buy a disk")


def test_a_name_that_no_directory_can_have_is_looked_at_where_it_would_be(tmp_path: Path) -> None:
    assert place("cache", tmp_path / ("x" * 300), "name another place").value.startswith(f"{tmp_path}/xxx")
