"""Join the processes that a launcher started, and refuse launches in which they would not find each other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

import torch

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.interruption import ending_at_once
from reflora_cli.ground.processes import RANKS, SIZES, number_of_processes, process_rank
from reflora_cli.model.precision import pick_device

LONGEST_WAIT = timedelta(minutes=30)
"""The longest that a process waits for another one in any exchange: one that hangs must not keep the others for
ever."""
FOREIGN_ENGINES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM")
"""Variables by which `accelerate launch` asks for ways to train that are not supported."""


@dataclass(frozen=True)
class Member:
    """A process among those of a launch: its device, its number from 0, and the number of processes."""

    device: torch.device
    rank: int = 0
    processes: int = 1


def join_launch() -> Member:
    """Return this process with its device, when all processes of its launch have come; without a launcher at once.

    Raises InputError for a launch that cannot work.
    """
    device = pick_device()
    if number_of_processes() == 1:
        return Member(device)
    from accelerate import PartialState

    refuse_unusable_launch()
    with ending_at_once():
        state = PartialState(cpu=device.type == "cpu" or uses_cpu(), timeout=LONGEST_WAIT)
    refuse_other_count(state.process_index, state.num_processes)
    return Member(state.device, state.process_index, state.num_processes)


def refuse_unusable_launch() -> None:
    """Raises InputError for what can be seen of a launch before its processes look for each other."""
    refuse_foreign_engines()
    refuse_unreadable_variables()
    refuse_more_processes_than_gpus()


def refuse_foreign_engines() -> None:
    """Raises InputError for an engine that the environment asks for."""
    for name in FOREIGN_ENGINES:
        if os.environ.get(name, "false").lower() not in ("", "0", "false"):
            what = "this engine is not supported: reflora uses DDP, or shards the base by model.sharded=true"
            remedy = "launch without this engine"
            raise InputError(Problem(what, f"environment variable {name}", os.environ[name], remedy=remedy))


def refuse_unreadable_variables() -> None:
    """Raises InputError for a launcher's variable that is no number."""
    for name in (*SIZES, *RANKS, "LOCAL_RANK"):
        value = os.environ.get(name, "0")
        if not value.removeprefix("-").isdecimal():
            remedy = "unset it, or launch with torchrun or accelerate launch"
            what = "a launcher's variable is not a number"
            raise InputError(Problem(what, f"environment variable {name}", repr(value), "a whole number", remedy))


def refuse_more_processes_than_gpus() -> None:
    """Raises InputError for a process for which its machine has no GPU left."""
    local, gpus = os.environ.get("LOCAL_RANK", ""), torch.cuda.device_count()
    if torch.cuda.is_available() and local.isdecimal() and int(local) >= gpus and not uses_cpu():
        what = "this machine has fewer GPUs than the launcher started processes"
        raise InputError(Problem(what, "--nproc-per-node, --num-processes", f"{gpus} GPUs", "one for each process"))


def uses_cpu() -> bool:
    """Whether accelerate is told to leave GPUs alone."""
    return os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")


def refuse_other_count(rank: int, processes: int) -> None:
    """Raises InputError if accelerate sees other processes than the launcher's variables, by which we speak and write.

    rank: the number of this process to accelerate. Every process would then do the whole work alone.
    """
    seen, launched = (rank, processes), (process_rank(), number_of_processes())
    if seen != launched:
        raise InputError(
            Problem(
                "the processes of this launcher do not see each other",
                found=f"process {launched[0]} of {launched[1]} is number {seen[0]} of {seen[1]} to accelerate",
                expected="LOCAL_RANK, RANK and WORLD_SIZE for each process",
                remedy="launch with torchrun or accelerate launch",
            )
        )
