"""A command leaves the process that it ran in as it found it."""

from __future__ import annotations

import os
import signal

import pytest
import typer

from reflora_cli.cli.guard import guarded


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
