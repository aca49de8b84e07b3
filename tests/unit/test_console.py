"""What commands print, whatever the encoding of the place."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest

from reflora_cli.console import print_json, unused_stdout

VALUE = {"run": "out/\u0142\xf3d\u017a \U0001f642 \udcff", "score": 0.5}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_json_is_printed_in_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path with a byte that is no letter has half a surrogate pair, which UTF-8 has not either."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    print_json(VALUE)
    assert json.loads(raw.getvalue().decode(encoding)) == VALUE
    assert raw.getvalue().count(b"\n") == 1


def test_libraries_do_not_print_on_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    with unused_stdout():
        os.write(1, b"a graph")
    print("after", flush=True)
    assert capfd.readouterr().out == "after\n"
