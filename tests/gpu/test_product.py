"""The commands on the accelerator, from a recipe to a merged model; without one, the CPU stands in for it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from reflora_cli.cli import app
from reflora_cli.methods.settings import Optimizer
from reflora_cli.model.precision import pick_device
from reflora_cli.training import loop
from tests.gpu.waits import waits

DEVICE = pick_device()
FEW = (
    "task.max_train_rows=96", "task.max_eval_rows=48", "train.epochs=null", "train.steps=8", "train.log_every=1",
    "method.refactor.warmup_steps=2", "train.warmup_steps=2",
)  # fmt: skip


def reflora(*arguments: object) -> dict[str, Any]:
    """Run a command that must succeed; the JSON object that it prints."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def losses(run: Path) -> list[float]:
    """The loss of every step, as logged."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


SETTINGS: dict[str, tuple[str, ...]] = {
    "lora": ("method.name=lora",),
    "dora in bfloat16": ("method.name=dora", "model.dtype=bfloat16"),
    "reflora in bfloat16": ("method.name=reflora", "model.dtype=bfloat16"),
    "reflora-s": ("method.name=reflora-s",),
    "reflora on nf4": ("method.name=reflora", "model.quantization=nf4", "model.dtype=auto"),
    "dora on int8, 8-bit optimizer": ("method.name=dora", "model.quantization=int8", "train.optimizer=adamw_8bit"),
    "checkpointed": ("method.name=dora", "train.gradient_checkpointing=true", "train.micro_batch_size=8"),
    "float16": ("method.name=reflora", "model.dtype=float16"),
    **{
        f"{optimizer}": ("method.name=lora", f"train.optimizer={optimizer}")
        for optimizer in Optimizer
        if "paged" in optimizer
    },
    "fp4": ("method.name=lora", "model.quantization=fp4", "model.dtype=auto"),
    "bfloat16, 8-bit optimizer": ("method.name=reflora", "model.dtype=bfloat16", "train.optimizer=adamw_8bit"),
}
if DEVICE.type != "cuda":  # one, to see that this file runs: the commands have tests of their own on the CPU
    SETTINGS = {"reflora on nf4": SETTINGS["reflora on nf4"]}
METHODS, STEPS = (["reflora", "dora"], 40) if DEVICE.type == "cuda" else (["reflora"], 20)


@pytest.mark.parametrize("setting", SETTINGS)
def test_train_score_and_merge(setting: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = reflora("train", "quickstart", *FEW, "train.steps=24", *SETTINGS[setting], "--output", run)
    found = losses(run)
    assert len(found) == 24
    assert max(found) < 1
    if setting != "float16":  # where the scaler skips some of the few steps
        assert sum(found[-6:]) < sum(found[:6])
    factors = load_file(run / "adapter" / "adapter_model.safetensors")
    assert all(bool(tensor.any()) for tensor in factors.values())
    scored = reflora("eval", run)
    assert scored["scores"] == trained["scores"]
    merged = reflora("merge", run)
    assert merged["largest_difference"] <= merged["tolerance"]


@pytest.mark.parametrize("protocol", ["choices", "llm-adapters"])
def test_questions_are_answered_alike_in_every_batch(protocol: str, tmp_path: Path) -> None:
    few = ("task.max_train_rows=96", "task.max_eval_rows=32", "train.epochs=1", "method.refactor.warmup_steps=1")
    run = tmp_path / "run"
    reflora("train", "quickstart-commonsense", *few, "train.warmup_steps=1", "--output", run)
    answers = []
    for size in (1, 16):
        output = tmp_path / str(size)
        reflora("eval", run, "--protocol", protocol, f"eval.batch_size={size}", "--output", output)
        (file,) = output.glob("**/predictions-*.jsonl")
        answers.append([json.loads(line)["parsed"] for line in file.read_text(encoding="utf-8").splitlines()])
    assert answers[0] == answers[1]


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_continues_as_if_it_had_not_been(method: str, tmp_path: Path) -> None:
    """By the command in a process of its own, killed while it trains; then continued, scored and merged."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    settings = (*FEW, f"train.steps={STEPS}", f"method.name={method}", "train.checkpoint_every=2",
                f"eval.every={STEPS}", "eval.select=last", "eval.at_start=false")  # fmt: skip
    trained = reflora("train", "quickstart", *settings, "--output", whole)
    command = [sys.executable, "-m", "reflora_cli", "train", "quickstart", *settings, "--output", str(part)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end and not list(part.glob("checkpoints/step-*")):
            time.sleep(0.01)
        process.kill()
        _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode(errors="replace")[-3000:]
    assert not (part / "results.json").exists()
    continued = reflora("train", "quickstart", *settings, "--output", part, "--resume")
    first, second = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (whole, part))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    assert losses(whole) == losses(part)
    assert continued["scores"] == trained["scores"] == reflora("eval", part)["scores"]
    merged = reflora("merge", part)
    assert merged["largest_difference"] <= merged["tolerance"]


SAVING: tuple[str, ...] = (
    "train.gradient_checkpointing=true",
    "train.micro_batch_size=4",
    "train.packing=true",
    "train.compile=true",
    "train.offload_activations=true",
    "model.streaming=host",
    "model.streaming=disk",
    "model.attention=eager",
)
"""Settings that change what a step takes, not what it computes."""


if DEVICE.type != "cuda":
    SAVING = SAVING[:1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"] if DEVICE.type == "cuda" else ["float32"])
@pytest.mark.parametrize("setting", SAVING)
def test_what_saves_memory_or_time_does_not_change_the_run(setting: str, dtype: str, tmp_path: Path) -> None:
    """A language model's losses over eight steps, with a method whose layers do most of their own."""
    few = ("task.max_train_rows=96", "task.max_eval_rows=16", "train.steps=8", "train.epochs=null", "eval.every=never",
           "method.name=dora", f"model.dtype={dtype}", "train.log_every=1", "train.warmup_steps=1", "eval.select=last",
           "eval.at_start=false")  # fmt: skip
    found = {}
    for name, settings in {"plain": (), "changed": (setting,)}.items():
        results = reflora("train", "quickstart-commonsense", *few, *settings, "--output", tmp_path / name)
        assert results.get("not_compiled") is None
        found[name] = losses(tmp_path / name)
    assert len(found["plain"]) == 8
    # Sums are in another order, no more.
    assert found["changed"] == pytest.approx(found["plain"], rel=1e-4 if dtype == "float32" else 2e-2)


MASKS = ("masking_utils.py", "modeling_attn_mask_utils.py")
"""Where transformers looks on the host whether a batch has padding, once in a pass."""


class Waits:
    """Counts by step where the host waits for a CUDA device: the names of the files that ask it to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[list[str]] = []
        self.take_step = loop.train_step
        monkeypatch.setattr(loop, "train_step", self)

    def __call__(self, session: Any, step: int) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with waits("warn"):
                self.take_step(session, step)
        told = (warning for warning in caught if "synchronizing CUDA operation" in str(warning.message))
        self.steps.append([Path(warning.filename).name for warning in told])


@pytest.mark.parametrize("method", ["lora", "dora", "reflora", "reflora-s"] if DEVICE.type == "cuda" else ["reflora"])
@pytest.mark.parametrize("micro", [16, 4])
def test_a_step_makes_the_host_wait_once(
    method: str, micro: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the loss and the norm are read. Besides, transformers looks at the mask of each micro-batch."""
    seen = Waits(monkeypatch)
    settings = (*FEW, f"method.name={method}", "train.batch_size=16", f"train.micro_batch_size={micro}",
                "train.log_every=1000", "eval.every=never", "eval.select=last", "eval.at_start=false")  # fmt: skip
    reflora("train", "quickstart", *settings, "--output", tmp_path / "run")
    assert len(seen.steps) == 8
    # The first steps look whether gradients reach all adapters, and the last one writes a line of the log.
    for step in seen.steps[3:-1]:
        own = [file for file in step if file not in MASKS]
        assert own == (["step.py"] if DEVICE.type == "cuda" else []), step
        assert len(step) - len(own) <= 2 * 16 // micro
