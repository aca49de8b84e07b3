"""Plan a run from its recipe, without weights: what it trains, reads, takes and writes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reflora_cli.adapters.quantized import FourBitWeight, QuantizedWeight
from reflora_cli.ground.paths import expanded
from reflora_cli.methods.settings import Dtype, Quantization
from reflora_cli.model.attention import refuse_attention, refuse_unfit_attention
from reflora_cli.model.precision import DTYPES
from reflora_cli.objectives.rows import Examples, Rows
from reflora_cli.planning.devices import Device
from reflora_cli.planning.disk import Disk, disk_of
from reflora_cli.planning.known import Known, examined_key, once, pass_key, scoring_key
from reflora_cli.planning.libraries import compiled_bytes, with_libraries
from reflora_cli.planning.memory import Memory, Sizes, memory_of
from reflora_cli.planning.passes import CPU, Batch, block_count, traced
from reflora_cli.planning.rows import Epoch, Lengths, assumed_batch, epoch_of, lengths_of, read_rows
from reflora_cli.planning.scoring import Scoring, scoring_of, scoring_peak
from reflora_cli.planning.skeleton import (
    Plain,
    Skeleton,
    checkpoint_dtype,
    examined,
    read_base,
    skeleton,
    without_values,
)
from reflora_cli.planning.state import State, optimizer_bytes, state_of
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.training.devices import refuse_half
from reflora_cli.training.earlier import find_earlier, settled
from reflora_cli.training.own_labels import with_labels
from reflora_cli.training.own_template import refuse_prompt_of, with_template
from reflora_cli.training.prepare import sampler_of, total_steps

STEPS_UNKNOWN = 10_000
"""The steps for which an optimizer is made where those of the run are not known: what it remembers is the same."""

QUANTIZING = 10
"""The bytes for each weight that bitsandbytes takes on a CPU to make four bits of a float32: the weight as a share of
its block's largest (4), the number of its level in 32 bits (4) and in 8 (1), and the halves of bytes twice (1)."""


@dataclass(frozen=True)
class Request:
    """What is planned for. processes: the number of processes, one for each device. output: the run directory."""

    device: Device
    processes: int = 1
    output: Path | None = None


@dataclass(frozen=True)
class Data:
    """A run's rows, as read and encoded. missing: why they cannot be read now; empty if they were."""

    examples: Examples
    rows: Rows | None
    missing: str = ""


@dataclass(frozen=True)
class Plan:
    """A planned run. targets: the modules that each pattern matched. epoch, lengths: None where rows are not at hand,
    which `missing` explains. steps: None where they are not known.
    """

    recipe: Recipe
    device: Device
    processes: int
    base: str
    has_weights: bool | None
    dtype: str
    targets: dict[str, int]
    left_out: tuple[str, ...]
    state: State
    batch: Batch
    epoch: Epoch | None
    lengths: Lengths | None
    missing: str
    steps: int | None
    steps_per_epoch: int | None
    scoring: Scoring
    memory: Memory
    disk: Disk

    @property
    def trained(self) -> int:
        return sum(self.state.trained.values())

    def record(self) -> dict[str, Any]:
        """Return the plan for `--json`; all sizes are bytes."""
        memory, share = self.memory, self.trained / self.state.total_parameters
        totals = ("resident", "in_pass", "in_step", "total", "margin", "fits")
        return {
            "base": {"name": self.base, "weights_at_hand": self.has_weights, "dtype": self.dtype},
            "device": asdict(self.device),
            "processes": self.processes,
            "targets": self.targets,
            "left_out": list(self.left_out),
            "parameters": {"trained": self.trained, "total": self.state.total_parameters, "share": share,
                           "by_kind": self.state.trained},
            "memory": {**asdict(memory), **{key: getattr(memory, key) for key in totals}},
            "rows": asdict(self.lengths) if self.lengths else {"missing": self.missing},
            "largest_batch": asdict(self.batch),
            "steps": self.steps,
            "steps_per_epoch": self.steps_per_epoch,
            "epoch": asdict(self.epoch) if self.epoch else None,
            "evaluations": asdict(self.scoring),
            "disk": asdict(self.disk),
        }  # fmt: skip


@dataclass(frozen=True)
class Ready:
    """A run that is ready to be planned: everything is read. plain: the base as its config says. whole: the adapted
    base, without values. shapes: the mode in which such tensors are made.
    """

    recipe: Recipe
    request: Request
    plain: Plain
    whole: Skeleton
    data: Data
    shapes: AbstractContextManager[Any]


def planned(recipe: Recipe, request: Request, known: Known | None = None) -> Plan:
    """Return the plan of a run, from the base's config alone.

    known: what other plans found, which is used and added to. Raises InputError for whatever training would refuse
    before its first step, as far as that shows without weights.
    """
    known = known or Known()
    own = made_ready(complete(recipe), request, known)
    recipe, request, plain, whole, data = own.recipe, own.request, own.plain, own.whole, own.data
    total, per_epoch = steps_of(recipe, data)
    epoch = epoch_in(recipe, plain, data, request)
    batch = epoch.largest if epoch else assumed_batch(recipe, request.processes)
    # Outside of the mode: an optimizer may make tables of its own, with values.
    remembered = optimizer_bytes(recipe, whole, total or STEPS_UNKNOWN)
    with own.shapes:
        state = state_of(recipe, whole, remembered, request.device.kind)
        memory = memory_in(own, batch, epoch, state, known)
    return Plan(
        recipe=recipe,
        device=request.device,
        processes=request.processes,
        base=plain.source.name,
        has_weights=plain.has_weights,
        dtype=str(plain.dtype).removeprefix("torch."),
        targets=dict(whole.adapted.matches),
        left_out=whole.left_out,
        state=state,
        batch=batch,
        epoch=epoch,
        lengths=lengths_in(recipe, plain, whole, data),
        missing=data.missing,
        steps=total,
        steps_per_epoch=per_epoch,
        scoring=scoring_of(recipe, plain, data.rows, total, per_epoch),
        memory=memory,
        disk=disk_of(recipe, state, total, per_epoch, request.output),
    )


def made_ready(recipe: Recipe, request: Request, known: Known) -> Ready:
    """Return the run with its base and rows read. recipe: a complete one."""
    refuse_half(recipe.model.dtype, request.device.kind)
    dtype = dtype_for(recipe, request.device)
    if request.device.kind == "cpu":
        refuse_attention(recipe.model.attention, CPU, dtype)
    else:  # what another machine's GPU has installed beside it is not known
        refuse_unfit_attention(recipe.model.attention, dtype)
    plain = read_base(recipe, dtype)
    if plain.tokenizer is not None:
        refuse_prompt_of(recipe, plain.tokenizer)
    shapes = without_values()
    with shapes:
        left_out = once(known.left_out, examined_key(recipe), lambda: examined(recipe, plain))
        whole = skeleton(recipe, plain, left_out)
    data = read_data(recipe, plain, whole)
    request = replace(request, device=with_libraries(request.device, plain.dtype))
    return Ready(recipe, request, plain, whole, data, shapes)


def memory_in(own: Ready, batch: Batch, epoch: Epoch | None, state: State, known: Known) -> Memory:
    """Return what the run takes, from a pass with its largest batch and one of an evaluation."""
    recipe, plain, whole, device = own.recipe, own.plain, own.whole, own.request.device
    found = once(
        known.passes,
        pass_key(recipe, plain, batch, device.kind),
        lambda: traced(recipe, plain, whole, batch, device),
    )
    scoring = once(
        known.scorings, scoring_key(recipe, plain), lambda: scoring_peak(recipe, plain, whole, own.data.rows)
    )
    sizes = replace(
        sizes_of(plain, whole, batch, device, scoring),
        compiled=compiled_bytes(found.products, epoch, plain.dtype, device.kind),
        files=turned_bytes(recipe, plain),
    )
    return memory_of(recipe, device, own.request.processes, state, found, sizes)


def complete(recipe: Recipe) -> Recipe:
    """Return the recipe with what its data and an earlier adapter decide, as a run begins. Raises InputError."""
    recipe = with_template(with_labels(recipe, None))
    return settled(recipe, find_earlier(recipe))


def dtype_for(recipe: Recipe, device: Device) -> torch.dtype:
    """Return the base's dtype on a device, which need not be here."""
    if recipe.model.dtype is not Dtype.AUTO:
        return DTYPES[recipe.model.dtype]
    return torch.bfloat16 if device.kind == "cuda" and device.has_bfloat16 else torch.float32


def read_data(recipe: Recipe, plain: Plain, whole: Skeleton) -> Data:
    """Return the run's rows if they are at hand."""
    base = whole.base
    template = next((part.chat_template for part in task_of(recipe.task).parts if part.chat_template), "")
    found = read_rows(recipe, plain, base.with_chat_template(template) if template and plain.tokenizer else base)
    return Data({}, None, found) if isinstance(found, str) else Data(*found)


def steps_of(recipe: Recipe, data: Data) -> tuple[int | None, int | None]:
    """Return the steps of the run and of an epoch, None where they are not known. Raises InputError for a warm-up that
    would outlast them.
    """
    if data.rows is None:
        return recipe.train.steps, None
    sampler = sampler_of(recipe, data.rows)
    return total_steps(recipe, sampler), sampler.steps_per_epoch


def epoch_in(recipe: Recipe, plain: Plain, data: Data, request: Request) -> Epoch | None:
    """Return what an epoch reads, if rows are at hand."""
    if data.rows is None:
        return None
    multiple = 8 if request.device.kind == "cuda" and plain.dtype.itemsize == 2 else 1
    return epoch_of(recipe, data.rows, lambda row: getattr(row, "weight", 1), request.processes, multiple)


def lengths_in(recipe: Recipe, plain: Plain, whole: Skeleton, data: Data) -> Lengths | None:
    """Return the lengths of the training rows, if they are at hand."""
    return None if data.rows is None else lengths_of(recipe, plain, whole.base, data.examples, data.rows)


def sizes_of(plain: Plain, whole: Skeleton, batch: Batch, device: Device, scoring: int | None) -> Sizes:
    """Return what `Memory` says beside the parts that stay and those of a pass."""
    packed = [own for own in whole.model.modules() if isinstance(own, QuantizedWeight)]
    largest = max((own.in_features * own.out_features for own in packed), default=0)
    in_four_bits = any(isinstance(own, FourBitWeight) for own in packed)
    return Sizes(
        logits=plain.kind.logits_bytes(whole.model, batch.learned, device.kind, device.memory),
        dequantized=largest * plain.dtype.itemsize,
        block=block_bytes(whole.model, plain.config),
        scoring=scoring,
        compiled=0,
        files=0,
        quantizing=largest * QUANTIZING if in_four_bits else 0,
    )


def turned_bytes(recipe: Recipe, plain: Plain) -> int:
    """Return the bytes of weight files at hand whose tensors are not used as they lie there: quantized, or cast."""
    kept = checkpoint_dtype(plain) in (None, plain.dtype)
    if not plain.has_weights or (kept and recipe.model.quantization is Quantization.NONE):
        return 0
    return sum(file.stat().st_size for file in expanded(plain.source.location).glob("*.safetensors"))


def block_bytes(model: nn.Module, config: Any) -> int:
    """Return the bytes of the largest block's frozen weights."""
    count = block_count(config)
    blocks = [block for own in model.modules() if isinstance(own, nn.ModuleList) and len(own) == count for block in own]
    return max((sum(p.nbytes for p in block.parameters() if not p.requires_grad) for block in blocks), default=0)
