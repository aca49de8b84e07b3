"""Two processes with gloo: as one process, with a sharded base too, and under torchrun through every kind of end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import Reflora, step_losses
from tests.forked import Forked
from tests.robustness.runs import SETTINGS
from tests.two_processes import run_by_two

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "reflora_cli", "train"]
ON_THE_CPU = {"ACCELERATE_USE_CPU": "true"} if torch.cuda.is_available() else {}
"""Without a GPU nothing needs to be said."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", **ON_THE_CPU}
RECIPE = ("quickstart", *SETTINGS, "method.name=reflora")


def launched(*arguments: object) -> subprocess.Popen[str]:
    command = [*LAUNCH, *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The launcher's children that train, by rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            values = dict(entry.split("=", 1) for entry in (place / "environ").read_text().split("\0") if "=" in entry)
        except OSError:
            continue
        if parent == process.pid and "LOCAL_RANK" in values:
            found[int(values["LOCAL_RANK"])] = int(place.name)
    return [found[rank] for rank in sorted(found)]


def test_a_killed_process_ends_all_and_the_run_can_be_continued(tmp_path: Path) -> None:
    """`tests/robustness/pairs.py` shows that it is continued equal, after every signal."""
    run = tmp_path / "run"
    process = launched(*RECIPE, "--output", run)
    while not list(run.glob("checkpoints/step-*")):
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.05)
    os.kill(workers(process)[1], signal.SIGKILL)
    begin = time.monotonic()
    process.communicate(timeout=90)
    assert time.monotonic() - begin < 60
    assert process.returncode != 0
    run_by_two("train", *RECIPE, "--output", run, "--resume")
    assert (run / "results.json").exists()


def test_a_process_that_waits_for_the_others_ends_at_a_signal(tmp_path: Path) -> None:
    """Not every launcher kills what does not obey."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    where = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    arguments = ("train", *RECIPE, "--output", tmp_path / "run")
    process = Forked("reflora_cli", *arguments, environment={**ENVIRONMENT, **where})
    while not is_reachable(port):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) in (143, -signal.SIGTERM)
    assert not (tmp_path / "run").exists()


def is_reachable(port: str) -> bool:
    """Whether somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


@pytest.mark.parametrize(
    ("method", "sharded"),
    [
        ("lora", "false"),
        ("dora", "true"),
        ("reflora", "true"),
        ("pissa", "true"),
        ("nora+", "true"),
    ],
)
def test_two_processes_train_as_one(method: str, sharded: str, recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """Also where base weights are split; adapters are not: the same losses, adapter and scores.

    Adam divides by the size of a gradient: where one is nearly zero, its rounding decides which way an element goes, so
    adapters are compared as a whole.
    """
    settings = (f"method.name={method}", "train.log_every=1", "task.max_train_rows=96", "train.micro_batch_size=8",
                "task.max_eval_rows=31", "train.epochs=3")  # fmt: skip
    run_by_two("train", recipe, *settings, f"model.sharded={sharded}", "--output", tmp_path / "two")
    assert reflora("train", recipe, *settings, "--output", tmp_path / "one").status == 0
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert two["processes"] == 2
    for own, other in zip(one["history"], two["history"], strict=True):
        assert own["scores"]["validation"] == pytest.approx(other["scores"]["validation"], abs=1e-5)
    assert step_losses(tmp_path / "one") == pytest.approx(step_losses(tmp_path / "two"), abs=1e-6)
    first, second = (flat_adapter(tmp_path / name) for name in ("one", "two"))
    assert (first - second).norm() < 1e-5 * first.norm()


def flat_adapter(run: Path) -> torch.Tensor:
    """All tensors of a run's adapter as one vector."""
    tensors = load_file(run / "adapter/adapter_model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def test_a_base_that_is_quantized_is_not_sharded(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    settings = ("model.sharded=true", "model.quantization=nf4")
    outcome = reflora("train", recipe, *settings, "--output", tmp_path / "run")
    assert outcome.status == 2
    assert "model.sharded" in outcome.err
