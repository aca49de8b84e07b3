"""What commands print, whatever the encoding of the place."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from reflora_cli.console import output
from reflora_cli.console.output import print_json, unused_stdout

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


def test_rich_is_imported_for_a_terminal_only() -> None:
    """A command in a pipe has no use for it, and starts sooner without."""
    shown = "show_error('wrong', 'a'); show_table('t', ['n'], [['1']]); make_reporter().note('noted')"
    code = f"import sys; from reflora_cli.console.output import *; {shown}; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert done.stderr.splitlines() == ["wrong: a", "t", "n", "1", "noted"]


def test_a_terminal_shows_the_same_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    output.show_error("wrong [input]", "a [red]text[/red]")
    output.show_table("title", ["name"], [["cell [1]"]])
    output.make_reporter().facts("facts", {"key": "value [2]"})
    shown = capsys.readouterr().err
    for words in ("wrong [input]", "a [red]text[/red]", "title", "name", "cell [1]", "facts", "key", "value [2]"):
        assert words in shown


@pytest.mark.parametrize("ending", ["| head -c 1", ">&-"])
def test_a_reader_that_has_ended_is_no_fault(ending: str) -> None:
    code = "from reflora_cli.console.output import print_json; print_json(['x' * 1_000_000]); print_json([1])"
    command = f'set -o pipefail; "{sys.executable}" -c "{code}" {ending}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
