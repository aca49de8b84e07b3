"""Quantizing is tried, not assumed; a failure is a warning that says what failed."""

from __future__ import annotations

import pytest
import torch

from reflora_cli.diagnosing import devices
from reflora_cli.diagnosing.finding import State

CPU = torch.device("cpu")


def test_nf4_works_on_the_processor_with_the_error_that_it_must_have() -> None:
    """16 levels for normal numbers: the mean error of the nearest level is between 5% and 15% of the mean magnitude."""
    assert 0.05 < devices.nf4_error(CPU) < 0.15
    assert devices.nf4(CPU).state is State.OK


def test_a_library_that_fails_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: torch.device) -> float:
        raise RuntimeError("CUDA Setup failed\nwith a long story")

    monkeypatch.setattr(devices, "nf4_error", fails)
    found = devices.nf4(CPU)
    assert (found.state, found.value) == (State.WARNING, "fails: RuntimeError: CUDA Setup failed")
    monkeypatch.setattr(devices, "nf4_error", lambda _: float("nan"))
    assert devices.nf4(CPU).state is State.WARNING


def test_every_machine_has_a_processor_memory_and_an_answer_about_accelerators() -> None:
    found = {own.name: own.value for own in devices.devices()}
    assert {"processor", "cores", "threads", "memory", "nf4 on cpu"} <= set(found)
    assert int(found["cores"].split()[0]) > 0
    assert found["threads"].startswith(str(torch.get_num_threads()))
    assert torch.cuda.is_available() or "none" in found["accelerator"]
