"""Set up the devices and processes of a run through accelerate."""

from __future__ import annotations

import contextlib

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs
from torch import nn

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.interruption import ending_at_once
from reflora_cli.ground.processes import number_of_processes
from reflora_cli.methods.settings import Dtype, Streaming
from reflora_cli.model.precision import pick_device
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.launch import LONGEST_WAIT, refuse_other_count, refuse_unusable_launch


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Return accelerate's handle on devices and processes, with a loss scaler for float16, which needs a GPU.

    The environment must not change a run by accelerate's own accumulation, compilation or engines: such settings are
    overruled or refused. Buffers are quantized weights and norms, equal in all processes, which DDP would send around
    at every step. Raises InputError.
    """
    half, device = recipe.model.dtype is Dtype.FLOAT16, pick_device().type
    refuse_half(recipe.model.dtype, device)
    refuse_unusable_launch()
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
    refuse_other_count(accelerator.process_index, accelerator.num_processes)
    return accelerator


def refuse_half(dtype: Dtype, device: str) -> None:
    """Raises InputError for float16 on a CPU. device: the type of the device that trains."""
    if dtype is Dtype.FLOAT16 and device == "cpu":
        problem = Problem(
            "training in float16 needs a GPU", "model.dtype", "float16 on the CPU", remedy="use float32 or bfloat16"
        )
        raise InputError(problem)


def dropout_note(model: nn.Module, processes: int, packing: bool) -> str:
    """Say what a run's results depend on if something of it is dropped at random; empty if nothing is."""
    reasons = ["the number of processes"] * (processes > 1) + ["train.packing"] * packing
    if not reasons or not draws_dropout(model):
        return ""
    return f"dropout is on and is drawn anew in every forward pass: results depend on {' and '.join(reasons)}"


def idle_notes(recipe: Recipe, device: str) -> list[str]:
    """Say which of a recipe's settings save the memory of a GPU alone, where there is none. device: the type of the
    device that trains.
    """
    if device != "cpu":
        return []
    found = []
    if recipe.train.offload_activations:
        found.append("train.offload_activations saves nothing on a CPU, whose memory is host memory")
    if recipe.model.streaming is Streaming.HOST:
        found.append("model.streaming=host saves nothing on a CPU, whose memory is host memory")
    return found


def draws_dropout(model: nn.Module) -> bool:
    """Whether any module of a model drops something in training, itself or in its attention."""
    return any(
        isinstance(value, float) and value > 0
        for module in model.modules()
        for name, value in vars(module).items()
        if "drop" in name or (name == "p" and "drop" in type(module).__name__.lower())
    )
