"""What a user sees while a command works: something at once, bars on a terminal, few lines elsewhere."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.cli.conftest import Reflora

FIRST = """
import sys
from reflora_cli.console import plain
from reflora_cli.cli import app

def first(text):
    heavy = [name for name in ("torch", "transformers", "accelerate", "datasets", "rich") if name in sys.modules]
    print(text, heavy, file=sys.stderr)
    sys.exit(0)

plain.say = first
app(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "NAME", "--json"],
        ["train", "NAME", "--dry-run"],
        ["eval", "NAME", "--json"],
        ["merge", "NAME", "--json"],
        ["export", "NAME", "--format", "peft", "--json"],
        ["predict", "NAME", "a text", "--json"],
        ["chat", "NAME"],
    ],
)
def test_a_command_says_what_it_loads_before_it_imports_anything_heavy(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", FIRST, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr == "loading NAME []\n"
    assert done.stdout == ""


def without_color() -> dict[str, str]:
    """This environment, but for a wish for plain text."""
    return {name: value for name, value in os.environ.items() if name != "NO_COLOR"}


def on_a_terminal(*arguments: object, environment: dict[str, str] | None = None) -> tuple[str, str]:
    """Stdout of a command, and what its terminal got from stderr."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    environment = environment or without_color()
    process = subprocess.Popen(
        [sys.executable, "-m", "reflora_cli", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=its, text=True, env={**environment, "TERM": "xterm"},
    )  # fmt: skip
    os.close(its)
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as stream:
        while True:
            try:
                part = stream.read(65536)
            except OSError:  # the command has ended
                break
            if not part:
                break
            shown += part
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, shown.decode()
    return out, shown.decode()


def test_an_evaluation_has_a_bar_on_a_terminal(trained: Path, tmp_path: Path) -> None:
    """The bar is on stderr; stdout holds one JSON object. Row by row the work is long enough to be shown."""
    out, shown = on_a_terminal("eval", trained, "eval.batch_size=1", "--json", "--output", tmp_path / "scores")
    assert json.loads(out)["scores"]
    assert "loading" in shown
    assert "scoring validation" in shown
    assert "/100" in shown


def test_training_shows_its_evaluations(recipe: Path, tmp_path: Path) -> None:
    settings = (
        "eval.batch_size=1",
        "train.epochs=1",
        "task.max_train_rows=64",
        "method.refactor.warmup_steps=1",
        "train.log_every=1",
    )
    _, shown = on_a_terminal("train", recipe, *settings, "--output", tmp_path / "run")
    assert "scoring validation" in shown
    assert shown.rindex("scoring validation") < shown.rindex("2/2")


def test_short_work_in_a_pipe_is_one_line_and_the_result(trained: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("eval", trained, "--output", tmp_path / "scores")
    lines = outcome.err.splitlines()
    assert lines[0] == f"loading {trained}"
    assert lines[1].startswith("builtin/entailment")


def test_long_work_in_a_pipe_is_told_with_the_score_so_far(
    trained: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no least time between two lines, each batch but the last has one."""
    monkeypatch.setattr("reflora_cli.console.pace.FIRST", 0.0)
    monkeypatch.setattr("reflora_cli.console.pace.SECONDS", 0.0)
    outcome = reflora("eval", trained, "eval.batch_size=40", "--output", tmp_path / "scores")
    told = [line for line in outcome.err.splitlines() if line.startswith("scoring validation")]
    assert [line.partition(" rows")[0] for line in told] == [f"scoring validation: {done} of 100" for done in (40, 80)]
    for line in told:
        assert "rows/s" in line
        assert "left" in line
        assert 0.0 <= float(line.rpartition("accuracy ")[2]) <= 1.0


@pytest.mark.parametrize("command", ["merge", "export"])
def test_merging_is_told_tensor_by_tensor(
    command: str, trained: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reflora_cli.console.pace.FIRST", 0.0)
    monkeypatch.setattr("reflora_cli.console.pace.SECONDS", 0.0)
    format = ("--format", "safetensors") if command == "export" else ()
    outcome = reflora(command, trained, *format, "--output", tmp_path / "merged", "--json")
    assert outcome.json["largest_difference"] < 1e-3
    counts = [line for line in outcome.err.splitlines() if line.startswith("writing the merged model: ")]
    assert len(counts) > 10
    assert "loading the merged model back" in outcome.err
