"""What a session asks of a step: where tensors wait, and which seconds are the step's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reflora_cli.console.reporter import SILENT
from reflora_cli.ground.interruption import noted_signals
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.training.devices import make_accelerator
from reflora_cli.training.prepare import prepare
from reflora_cli.training.session import Session
from reflora_cli.training.step import train_step
from reflora_cli.training.train import compute_of
from tests.unit.model.test_streaming import recipe_of


def session_of(place: Path, **train: Any) -> Session:
    recipe = recipe_of({"name": "lora", "targets": ["q_proj"]})
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})
    accelerator = make_accelerator(recipe)
    job = prepare(recipe, compute_of(recipe, accelerator), recipe.model)
    model, optimizer = accelerator.prepare(job.objective.loss_module, job.optimizer)
    with noted_signals() as interruption:
        return Session(job, accelerator, model, optimizer, RunDirectory(place), SILENT, interruption)


def test_a_weight_that_took_the_place_of_another_stays_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a rule that moves the base."""
    session = session_of(tmp_path, offload_activations=True)
    asked = list[frozenset[int]]()

    class Watched:
        def __init__(self, weights: frozenset[int]) -> None:
            asked.append(weights)

        def keeping(self) -> None: ...

    monkeypatch.setattr("reflora_cli.training.session.HostActivations", Watched)
    weight = next(own for own in session.model.parameters() if own.dim() == 2)
    session.saving()
    weight.data = weight.data.clone()
    session.saving()
    address = weight.untyped_storage().data_ptr()
    assert [address in own for own in asked] == [False, True]


def test_seconds_of_compiling_between_steps_are_not_taken_from_a_step(tmp_path: Path) -> None:
    session = session_of(tmp_path)
    session.compiling.seconds = 1000.0
    train_step(session, 0)
    assert 0 < session.progress.seconds < 1000
    assert session.progress.compile_seconds == 0
