"""Who a process is: the launcher's variables and accelerate must agree, or nothing begins."""

from __future__ import annotations

import pytest
import torch

from reflora_cli.ground.errors import InputError
from reflora_cli.ground.processes import RANKS, SIZES, is_first_process, number_of_processes, process_rank
from reflora_cli.runs.launch import (
    join_launch,
    refuse_more_processes_than_gpus,
    refuse_other_count,
    refuse_unreadable_variables,
)


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
    refuse_other_count(0, 1)
    launcher.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="process 0 of 2 is number 0 of 1"):
        refuse_other_count(0, 1)


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


def test_without_a_launcher_a_process_is_alone(launcher: pytest.MonkeyPatch) -> None:
    member = join_launch()
    assert (member.rank, member.processes) == (0, 1)
    launcher.setenv("WORLD_SIZE", "2")
    launcher.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="ACCELERATE_USE_FSDP"):
        join_launch()
