"""Batches made one step ahead: the run is the same, and the batches are used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reflora_cli.console.reporter import SilentReporter
from reflora_cli.recipe.files import load_recipe
from reflora_cli.training import step as module
from reflora_cli.training.ahead import Batch, BatchAhead, computes_by_itself
from reflora_cli.training.train import train

FEW = (
    "task.max_train_rows=40", "task.max_eval_rows=8", "train.epochs=2", "train.batch_size=16", "train.log_every=1",
    "train.micro_batch_size=4", "method.refactor.warmup_steps=1", "train.warmup_steps=1", "eval.every=never",
    "eval.select=last", "eval.at_start=false",
)  # fmt: skip


class Maker:
    """Makes batches, and remembers of which rows."""

    def __init__(self) -> None:
        self.made: list[list[int]] = []

    def __call__(self, rows: Sequence[int]) -> Batch:
        self.made.append(list(rows))
        return {"rows": torch.tensor(rows)}


def test_a_batch_made_ahead_is_taken_once() -> None:
    make = Maker()
    batches = BatchAhead(make)
    batches.prepare([3, 1])
    assert batches.take([3, 1])["rows"].tolist() == [3, 1]
    assert make.made == [[3, 1]]
    assert batches.take([3, 1])["rows"].tolist() == [3, 1]
    assert make.made == [[3, 1]] * 2


def test_a_batch_of_other_rows_is_never_given() -> None:
    make = Maker()
    batches = BatchAhead(make)
    batches.prepare([3, 1])
    assert batches.take([1, 3])["rows"].tolist() == [1, 3]
    assert batches.take([3, 1])["rows"].tolist() == [3, 1]
    assert make.made == [[3, 1], [1, 3], [3, 1]]


def test_only_other_devices_compute_by_themselves() -> None:
    assert not computes_by_itself(torch.device("cpu"))
    assert computes_by_itself(torch.device("cuda"))


def run_of(place: Path) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """The adapter and the losses of a short run over two epochs."""
    train(load_recipe("quickstart", FEW), place, reporter=SilentReporter())
    lines = (place / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if line["event"] == "step"]
    return load_file(place / "adapter" / "adapter_model.safetensors"), losses


def test_a_run_with_batches_made_ahead_is_the_same_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, as on a device that computes by itself."""
    taken: list[bool] = []

    class Watched(BatchAhead):
        def take(self, rows: Sequence[int]) -> Batch:
            taken.append(self._kept is not None and self._kept[0] == list(rows))
            return super().take(rows)

    plain, losses = run_of(tmp_path / "plain")
    monkeypatch.setattr(module, "computes_by_itself", lambda device: True)
    monkeypatch.setattr("reflora_cli.training.session.BatchAhead", Watched)
    ahead, others = run_of(tmp_path / "ahead")
    assert losses == others
    assert len(losses) == 6
    assert all(torch.equal(tensor, ahead[name]) for name, tensor in plain.items())
    # Two epochs of 40 rows, in steps of 16, 16 and 8 rows: 10 micro-batches each, the first of all steps but one ahead.
    assert len(taken) == 20
    assert sum(taken) == 5
