"""A run whose model was to be compiled trains eagerly where that cannot be done, and says why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch._dynamo.callback
from torch import nn

from reflora_cli.training.compile import compiling
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
