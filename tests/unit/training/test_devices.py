"""Who a process is: the launcher's variables and accelerate must agree, or nothing begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as t

from reflora_cli.ground.errors import InputError
from reflora_cli.ground.processes import RANKS, SIZES, is_first_process, number_of_processes, process_rank
from reflora_cli.methods.method import Method
from reflora_cli.training.devices import (
    draws_dropout,
    dropout_note,
    refuse_more_processes_than_gpus,
    refuse_other_count,
    refuse_unreadable_variables,
)
from tests.models import injected, make


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No launcher's variable is set yet."""
    for name in (*SIZES, *RANKS, "LOCAL_RANK", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("size", "rank"),
    [("WORLD_SIZE", "RANK"), ("PMI_SIZE", "PMI_RANK"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")],
)
def test_variables_of_launchers(size: str, rank: str, launcher: pytest.MonkeyPatch) -> None:
    assert (number_of_processes(), process_rank(), is_first_process()) == (1, 0, True)
    launcher.setenv(size, "3")
    launcher.setenv(rank, "2")
    assert (number_of_processes(), process_rank(), is_first_process()) == (3, 2, False)


def test_processes_that_do_not_find_each_other_are_refused(launcher: pytest.MonkeyPatch) -> None:
    alone: Any = SimpleNamespace(process_index=0, num_processes=1)
    refuse_other_count(alone)
    launcher.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="process 0 of 2 is number 0 of 1"):
        refuse_other_count(alone)


def test_a_variable_that_is_no_number_is_refused(launcher: pytest.MonkeyPatch) -> None:
    launcher.setenv("LOCAL_RANK", "-1")
    refuse_unreadable_variables()
    launcher.setenv("WORLD_SIZE", "")
    with pytest.raises(InputError, match="WORLD_SIZE"):
        refuse_unreadable_variables()


def test_each_process_has_a_gpu_of_its_own(launcher: pytest.MonkeyPatch) -> None:
    launcher.setattr(torch.cuda, "is_available", lambda: True)
    launcher.setattr(torch.cuda, "device_count", lambda: 2)
    launcher.setenv("LOCAL_RANK", "1")
    refuse_more_processes_than_gpus()
    launcher.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="2 GPUs"):
        refuse_more_processes_than_gpus()


def test_dropout_is_found_where_it_acts() -> None:
    """Also in attention, where it is a number and no module, and in adapters."""
    model = make("bert")
    assert not draws_dropout(model)
    injected(model, Method(name="lora", dropout=0.1), [], [], seed=0)
    assert draws_dropout(model)
    assert dropout_note(model, 1, packing=False) == ""
    assert "the number of processes and train.packing" in dropout_note(model, 2, packing=True)
    assert dropout_note(make("bert"), 2, packing=True) == ""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 60}
    assert not draws_dropout(t.LlamaModel(t.LlamaConfig(**sizes, intermediate_size=16)))
    assert draws_dropout(t.LlamaModel(t.LlamaConfig(**sizes, intermediate_size=16, attention_dropout=0.1)))
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0}
    assert draws_dropout(t.GPT2Model(t.GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2, **quiet)))
