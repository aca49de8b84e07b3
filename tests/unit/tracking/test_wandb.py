"""The id under which wandb knows a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflora_cli.tracking.wandb import run_id


def test_an_id_is_kept_for_the_next_start(tmp_path: Path) -> None:
    first = run_id(tmp_path / "one.json")
    assert run_id(tmp_path / "one.json") == first
    assert run_id(tmp_path / "two.json") != first


@pytest.mark.parametrize("content", [b"\xff", b"[]", b'{"id": 3}', b'{"id": ""}', b""])
def test_a_damaged_id_is_replaced(content: bytes, tmp_path: Path) -> None:
    place = tmp_path / "id.json"
    place.write_bytes(content)
    assert run_id(place) == run_id(place) != ""
