"""Set up the devices and processes of a run through accelerate."""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs
from torch import nn

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.interruption import ending_at_once
from reflora_cli.ground.processes import RANKS, SIZES, number_of_processes, process_rank
from reflora_cli.methods.settings import Dtype
from reflora_cli.model.precision import pick_device
from reflora_cli.recipe.sections import Recipe

LONGEST_WAIT = timedelta(minutes=30)
"""The longest that a process waits for another one in any exchange: one that hangs must not keep the others for
ever."""
FOREIGN_ENGINES = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM")
"""Variables by which `accelerate launch` asks for ways to train that are not supported."""


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Return accelerate's handle on devices and processes, with a loss scaler for float16, which needs a GPU.

    The environment must not change a run by accelerate's own accumulation, compilation or engines: such settings are
    overruled or refused. Buffers are quantized weights and norms, equal in all processes, which DDP would send around
    at every step. Raises InputError.
    """
    half, device = recipe.model.dtype is Dtype.FLOAT16, pick_device().type
    if half and device == "cpu":
        problem = Problem(
            "training in float16 needs a GPU", "model.dtype", "float16 on the CPU", remedy="use float32 or bfloat16"
        )
        raise InputError(problem)
    refuse_foreign_engines()
    refuse_unreadable_variables()
    refuse_more_processes_than_gpus()
    launched = number_of_processes() > 1
    # Several processes wait here until all have come.
    with ending_at_once() if launched else contextlib.nullcontext():
        accelerator = Accelerator(
            cpu=launched and device == "cpu",  # without it accelerate looks for GPUs, and takes each process for alone
            mixed_precision="fp16" if half else "no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dynamo_backend="no",
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=LONGEST_WAIT),
            ],
        )
    refuse_other_count(accelerator)
    return accelerator


def refuse_foreign_engines() -> None:
    """Raises InputError for an engine that the environment asks for."""
    for name in FOREIGN_ENGINES:
        if os.environ.get(name, "false").lower() not in ("", "0", "false"):
            what, remedy = "reflora trains with DDP, and model.sharded=true", "launch without this engine"
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


def refuse_other_count(accelerator: Accelerator) -> None:
    """Raises InputError if accelerate sees other processes than the launcher's variables, by which we speak and write.

    Every process would then train the whole run alone.
    """
    seen, launched = (accelerator.process_index, accelerator.num_processes), (process_rank(), number_of_processes())
    if seen != launched:
        raise InputError(
            Problem(
                "the processes of this launcher do not find each other",
                found=f"process {launched[0]} of {launched[1]} is number {seen[0]} of {seen[1]} to accelerate",
                expected="LOCAL_RANK, RANK and WORLD_SIZE for each process",
                remedy="launch with torchrun or accelerate launch",
            )
        )


def dropout_note(model: nn.Module, processes: int, packing: bool) -> str:
    """Say what a run's results depend on if something of it is dropped at random; empty if nothing is."""
    reasons = ["the number of processes"] * (processes > 1) + ["train.packing"] * packing
    if not reasons or not draws_dropout(model):
        return ""
    return f"dropout is on, and drawn for each batch as it is computed: results depend on {' and '.join(reasons)}"


def draws_dropout(model: nn.Module) -> bool:
    """Whether any module of a model drops something in training, itself or in its attention."""
    return any(
        isinstance(value, float) and value > 0
        for module in model.modules()
        for name, value in vars(module).items()
        if "drop" in name or (name == "p" and "drop" in type(module).__name__.lower())
    )
