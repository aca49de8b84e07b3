"""Quantizing is tried, not assumed; a failure is a warning that says what failed."""

from __future__ import annotations

from pathlib import Path

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


@pytest.mark.parametrize(("kind", "variable", "usual"), [("cpu", "CXX", "g++"), ("cuda", "CC", "gcc")])
def test_what_compiles_is_found_or_said_to_be_missing(
    kind: str, variable: str, usual: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(devices, "find_spec", lambda _: object())
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = devices.compiling(kind)
    assert found.state is State.WARNING
    assert usual in found.value
    assert variable in found.remedy
    (tmp_path / "own").write_text("#!/bin/sh\n")
    (tmp_path / "own").chmod(0o755)
    monkeypatch.setenv(variable, "own")
    found = devices.compiling(kind)
    assert (found.state, found.value.split()[:3]) == (State.OK, ["works,", "by", str(tmp_path / "own")])


def test_a_gpu_compiles_by_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(devices, "find_spec", lambda _: None)
    assert "triton" in devices.compiling("cuda").value
    assert devices.compiling("cuda").state is State.WARNING
    assert devices.compiling("cpu").state is State.OK
