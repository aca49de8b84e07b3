"""What a trained model is asked about: which words of a command line are texts, and which a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.serving.rows import file_among


def test_an_empty_text_is_a_text_and_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert file_among([""]) is None
    assert file_among(["", "a cup"]) is None
    (tmp_path / "rows.csv").write_text("text\na\n", encoding="utf-8")
    assert file_among(["rows.csv"]) == Path("rows.csv")
    with pytest.raises(InputError, match="file type is not supported"):
        file_among(["."])
