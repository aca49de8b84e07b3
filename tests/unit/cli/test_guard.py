"""A command leaves the process that it ran in as it found it."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
import typer

from reflora_cli.cli.guard import guarded
from reflora_cli.ground import interruption
from reflora_cli.ground.interruption import Aborted, noted_signals


def terminated() -> None:
    with guarded():
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal did not unwind")


def test_termination_is_status_143_and_its_handler_goes_with_the_command() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as stopped:
        terminated()
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


class Finalized:
    """Gets a signal while it is finalized, where Python drops whatever is raised."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        for _ in range(10):
            pass


def interrupted_in_a_finalizer(number: signal.Signals) -> None:
    with guarded():
        Finalized(number)
        time.sleep(5)
        raise AssertionError("the signal was lost")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_a_finalizer_runs_is_not_lost(number: signal.Signals, status: int) -> None:
    with pytest.raises(typer.Exit) as stopped:
        interrupted_in_a_finalizer(number)
    assert stopped.value.exit_code == status


def test_nor_is_one_that_should_end_an_evaluation() -> None:
    def evaluate() -> None:
        with noted.interruptible():
            Finalized(signal.SIGTERM)
            time.sleep(5)
            raise AssertionError("the signal was lost")

    with noted_signals() as noted:
        with pytest.raises(Aborted):
            evaluate()
        assert noted.signal == signal.SIGTERM


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_that_is_sent_again_at_once_is_not_lost_either(
    number: signal.Signals, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine under load, the thread that sends it may be ahead of the hook that starts this thread."""
    monkeypatch.setattr(interruption, "MOMENT", 0.0)
    with pytest.raises(typer.Exit) as stopped:
        interrupted_in_a_finalizer(number)
    assert stopped.value.exit_code == status


def test_a_signal_that_is_sent_again_is_not_taken_for_a_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late it comes: a second one would end the process without a checkpoint."""
    ended: list[int] = []
    monkeypatch.setattr(interruption.os, "_exit", ended.append)
    monkeypatch.setattr(interruption, "SAME_REQUEST", 0.0)
    test_nor_is_one_that_should_end_an_evaluation()
    assert not ended


def test_a_second_signal_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(interruption.os, "_exit", ended.append)
    monkeypatch.setattr(interruption, "SAME_REQUEST", 0.0)
    with noted_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
    assert ended == [143]


def test_a_full_gpu_is_one_message_with_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as stopped, guarded():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert stopped.value.exit_code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the GPU's memory is full" in said
    for change in ("train.micro_batch_size", "train.gradient_checkpointing", "model.quantization", "model.streaming"):
        assert change in said
