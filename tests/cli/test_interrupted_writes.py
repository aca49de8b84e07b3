"""Merging and exporting that is killed, terminated or out of room leaves a complete result or nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Reflora

REFLORA = [sys.executable, "-m", "reflora_cli"]
EXPORTS = {
    "peft": ("adapter_model.safetensors", "adapter_config.json", "README.md"),
    "gguf": ("model.gguf", "Modelfile", "README.md"),
    "onnx": ("model.onnx", "README.md"),
}
"""What is there when an export is complete."""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def complete(output: Path) -> bool:
    return json.loads((output / "merge.json").read_text())["largest_difference"] <= 1e-4


@pytest.mark.parametrize("killer", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_at_any_moment(killer: signal.Signals, trained: Path, reflora: Reflora, tmp_path: Path) -> None:
    output = tmp_path / "merged"
    stopped = 0
    for delay in (1.5, 2.5, 3.2, 3.8):
        process = subprocess.Popen(
            [*REFLORA, "merge", str(trained), "--output", str(output)], env=environment(), stderr=subprocess.DEVNULL
        )
        time.sleep(delay)
        process.send_signal(killer)
        status = process.wait(timeout=60)
        stopped += status != 0
        if output.exists():
            assert complete(output)
            break
        if killer is signal.SIGTERM:
            assert status in (143, -signal.SIGTERM)
            assert not list(tmp_path.iterdir())
    assert stopped or output.exists()
    if not output.exists():
        assert reflora("merge", trained, "--output", output).status == 0
    assert complete(output)
    assert [path.name for path in tmp_path.iterdir()] == ["merged"], "what the killed ones left is removed"


@pytest.mark.parametrize("kind", EXPORTS)
def test_stopped_exports(kind: str, trained: Path, answering: Path, reflora: Reflora, tmp_path: Path) -> None:
    """Terminated first, then killed, then finished: only the finished one is seen."""
    run, output = answering if kind == "gguf" else trained, tmp_path / "out"
    command = [*REFLORA, "export", str(run), "--format", kind, "--output", str(output)]
    stopped = 0
    for killer in (signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
        stopped += stop_while_writing(process, tmp_path, killer)
        if killer is signal.SIGTERM:
            assert output.exists() or not list(tmp_path.iterdir())
    assert stopped or output.exists()
    if not output.exists():
        assert reflora("export", run, "--format", kind, "--output", output).status == 0
    assert not [name for name in EXPORTS[kind] if not (output / name).stat().st_size]
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "what the killed ones left is removed"


def stop_while_writing(process: subprocess.Popen[bytes], directory: Path, killer: signal.Signals) -> bool:
    """Send the signal as soon as something is written; whether the process ended by it."""
    while process.poll() is None and not list(directory.iterdir()):
        time.sleep(0.01)
    process.send_signal(killer)
    return process.wait(timeout=60) != 0


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


def test_leftovers_of_living_processes_stay(tmp_path: Path) -> None:
    from reflora_cli.runs import write_directory

    alive, dead = tmp_path / f".out.{os.getpid()}-abc", tmp_path / ".out.4194304-abc"
    for place in (alive, dead, tmp_path / ".out.notes-abc"):
        place.mkdir()
    with write_directory(tmp_path / "out"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"out", alive.name, ".out.notes-abc"}
