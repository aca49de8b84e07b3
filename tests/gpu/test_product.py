"""The commands on the accelerator, from a recipe to a merged model; without one, the CPU stands in for it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from reflora_cli.cli import app
from reflora_cli.model.precision import pick_device

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
    "paged optimizer": ("method.name=lora", "train.optimizer=paged_adamw_8bit"),
}
if DEVICE.type != "cuda":  # one, to see that this file runs: the commands have tests of their own on the CPU
    SETTINGS = {"reflora on nf4": SETTINGS["reflora on nf4"]}
METHODS = ["reflora", "dora"] if DEVICE.type == "cuda" else ["reflora"]


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
def test_a_continued_run_equals_one_that_was_not_stopped(method: str, tmp_path: Path) -> None:
    """Stopped after the third of eight steps by leaving only that checkpoint."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    settings = (*FEW, f"method.name={method}", "train.checkpoint_every=3", "train.keep_checkpoints=9")
    reflora("train", "quickstart", *settings, "--output", whole)
    reflora("train", "quickstart", *settings, "--output", part)
    for checkpoint in (part / "checkpoints").iterdir():
        if checkpoint.name != "step-000003":
            for file in checkpoint.iterdir():
                file.unlink()
            checkpoint.rmdir()
    (part / "results.json").unlink()
    reflora("train", "quickstart", *settings, "--output", part, "--resume")
    first, second = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (whole, part))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    assert losses(whole) == losses(part)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="only CUDA tells when the host waits")
@pytest.mark.parametrize("method", ["lora", "dora", "reflora", "reflora-s"])
def test_a_step_makes_the_host_wait_once(method: str, tmp_path: Path) -> None:
    """When the loss and the norm are read; counted as the difference between a longer and a shorter run."""
    waits = [waits_of(method, steps, tmp_path / str(steps)) for steps in (10, 18)]
    assert waits[1] - waits[0] == 8


def waits_of(method: str, steps: int, output: Path) -> int:
    """How often a run makes the host wait, as torch warns of it."""
    settings = (
        *FEW,
        f"method.name={method}",
        f"train.steps={steps}",
        "train.log_every=1000",
        "eval.every=never",
        "eval.select=last",
    )
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            reflora("train", "quickstart", *settings, "--output", output)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)
