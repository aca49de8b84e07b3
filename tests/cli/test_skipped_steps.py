"""Steps that float16's loss scaler skips for an overflow, here with a scaler on the CPU: what they do not advance."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import get_linear_schedule_with_warmup

from reflora_cli.training import step as step_module
from reflora_cli.training import train as train_module
from tests.cli.conftest import Reflora, records

STEPS, WARMUP, RATE = 16, 4, 3e-3
OVERFLOWS = (2, 3, 6, 11)
"""0-based; one lies before the checkpoint from which the run is continued, one behind it."""
SETTINGS = (
    "task.max_train_rows=32", "task.max_eval_rows=8", "train.batch_size=4", f"train.warmup_steps={WARMUP}",
    "method.refactor.warmup_steps=1", "train.log_every=1", "train.max_grad_norm=0", "eval.at_start=false",
)  # fmt: skip


@pytest.fixture
def overflowing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scaler, and gradients that are infinite at some steps."""
    make, accumulate = train_module.make_accelerator, step_module.accumulate

    def make_accelerator(recipe: Any) -> Accelerator:
        accelerator = make(recipe)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        return accelerator

    def accumulate_and_overflow(session: Any, rows: list[int]) -> torch.Tensor:
        loss = accumulate(session, rows)
        if session.progress.step in OVERFLOWS:
            session.job.adapted.pairs[0].B.grad.fill_(torch.inf)
        return loss

    monkeypatch.setattr(train_module, "make_accelerator", make_accelerator)
    monkeypatch.setattr(step_module, "accumulate", accumulate_and_overflow)


def rates_of_the_trainer() -> list[float]:
    """The rate of each step, as transformers' Trainer advances its scheduler: not after a step that was skipped."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    scheduler = get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS)
    rates = []
    for step in range(STEPS):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        if step not in OVERFLOWS:
            scheduler.step()
    return rates


@pytest.mark.usefixtures("overflowing")
def test_the_schedule_does_not_advance_and_a_resumed_run_knows_it(
    recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    outcome = reflora("train", recipe, *SETTINGS, "--output", whole)
    assert outcome.status == 0, outcome.err
    assert [line["learning_rate"] for line in records(whole, "step")] == rates_of_the_trainer()

    part = shutil.copytree(whole, tmp_path / "part")
    shutil.rmtree(part / "checkpoints" / "step-000016")
    (part / "results.json").unlink()
    outcome = reflora("train", recipe, *SETTINGS, "--output", part, "--resume")
    assert outcome.status == 0, outcome.err
    assert [line["learning_rate"] for line in records(part, "step")] == rates_of_the_trainer()
    name = "adapter/adapter_model.safetensors"
    assert (part / name).read_bytes() == (whole / name).read_bytes()
