"""A run says that its model is being compiled, and trains eagerly where that cannot be done, with the reason."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
import torch._dynamo.callback
from torch import nn

from reflora_cli.training.compile import compiling, telling_time
from reflora_cli.training.step import train_step
from tests.unit.training.test_session import session_of


def test_a_torch_without_what_compiling_needs_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the compiler that has another name in another version of torch."""
    monkeypatch.delattr(torch._dynamo.callback, "callback_handler")
    limit = torch._dynamo.config.recompile_limit
    session = session_of(tmp_path, compile=True)
    with compiling(session, watched=False):
        train_step(session, 0)
    assert "callback_handler" in session.not_compiled
    assert torch._dynamo.config.recompile_limit == limit


def test_a_model_without_blocks_is_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reflora_cli.training.compile.named_blocks", lambda _: dict[str, nn.Module]())
    session = session_of(tmp_path, compile="default")
    with compiling(session, watched=False):
        assert session.not_compiled == "the model has no repeated blocks"


def test_time_is_told_until_compiling_ends() -> None:
    said: list[str] = []
    twice = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        if len(said) >= 2:
            twice.set()

    with telling_time(say, every=0.01):
        assert twice.wait(60)
    count = len(said)
    assert all(text.startswith("still compiling, after ") for text in said)
    assert not [own for own in threading.enumerate() if own.name == "compiling"]
    assert len(said) == count


def test_what_is_compiled_soon_is_told_nothing_of() -> None:
    said: list[str] = []
    with telling_time(said.append, every=60):
        pass
    assert said == []
