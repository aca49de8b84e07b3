"""What a run takes of its device's memory, by part, and whether that is there."""

from __future__ import annotations

from dataclasses import dataclass

from reflora_cli.planning.devices import Device
from reflora_cli.planning.passes import Traced
from reflora_cli.planning.state import State
from reflora_cli.recipe.sections import Recipe

MARGIN = 0.10
"""What is added before memory is called enough, as a share of all but the fixed part: allocators round up and leave
gaps, and kernels take workspaces that no trace sees."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    weights: frozen ones, by kind. resident: what stays during the run without `fixed`. kept, workspace: what the
    forward pass keeps, and what exists beside it at the peak of a pass, gradients as far as they are made. logits: the
    part of the workspace that logits and their loss take. dequantized: the largest weight that is made dense for a
    product. gaps: those of a CPU's heap in a pass. gradients, step: at the optimizer's step. scoring: the peak of an
    evaluation; None where it is not known. best: the copy of the best adapter so far, which a run keeps from its first
    evaluation on. saving: the copy of what the optimizer remembers, from which a checkpoint is written; on a CPU it is
    in the same memory. compiled: the kernels that a CPU compiles. loading: what exists on a CPU
    while weights are read in another form than their files have: the files, which are mapped, the weights made of
    them, and what making the largest takes. host: what lies in host memory for a GPU, by kind.
    """

    fixed: int
    weights: dict[str, int]
    adapter: int
    beside: int
    optimizer: int
    buckets: int
    kept: int
    workspace: int
    logits: int
    dequantized: int
    gaps: int
    gradients: int
    step: int
    scoring: int | None
    best: int
    saving: int
    compiled: int
    loading: int
    available: int
    way: str
    host: dict[str, int]

    @property
    def resident(self) -> int:
        beside = self.beside + self.optimizer + self.buckets + self.best + self.compiled
        return sum(self.weights.values()) + self.adapter + beside

    @property
    def in_pass(self) -> int:
        return self.kept + self.workspace + self.gaps

    @property
    def in_step(self) -> int:
        return self.gradients + self.step

    @property
    def total(self) -> int:
        beside = max(self.in_pass, self.in_step, self.scoring or 0, self.saving)
        return self.fixed + max(self.resident + beside, self.loading)

    @property
    def margin(self) -> int:
        return int((self.total - self.fixed) * MARGIN)

    @property
    def fits(self) -> bool:
        return self.total + self.margin <= self.available


def memory_of(recipe: Recipe, device: Device, processes: int, state: State, found: Traced, sizes: Sizes) -> Memory:
    """Return the memory of a run. found: a pass over its largest batch."""
    accumulates = recipe.train.batch_size > recipe.train.micro_batch_size  # as in the traced pass
    weights = {**state.weights, **streamed_weights(device.kind, state, sizes)}
    if recipe.model.sharded and processes > 1:
        weights = {kind: -(-size // processes) for kind, size in weights.items()}
        weights["gathered blocks"] = 2 * sizes.block  # the one that runs and the one that is fetched meanwhile
    return Memory(
        fixed=device.fixed,
        weights=weights,
        adapter=state.adapter,
        beside=state.beside,
        optimizer=state.optimizer,
        buckets=state.gradients if processes > 1 else 0,
        kept=found.kept,
        workspace=found.beside + (state.gradients if accumulates else 0),
        logits=sizes.logits,
        dequantized=sizes.dequantized,
        gaps=found.gaps,
        gradients=state.gradients,
        step=state.step,
        scoring=sizes.scoring,
        best=state.adapter if recipe.eval.select == "best" else 0,
        saving=state.optimizer if device.kind == "cpu" else 0,
        compiled=sizes.compiled,
        loading=loading_bytes(state, sizes) if device.kind == "cpu" else 0,
        available=device.memory,
        way=found.way,
        host=host_memory(device.kind, state, found),
    )


def streamed_weights(device: str, state: State, sizes: Sizes) -> dict[str, int]:
    """Return the bytes that streamed weights take on a device of this type, by kind; nothing where none are."""
    streamed = state.streamed
    return streamed.on_device(device, turned=sizes.files > 0) if streamed.blocks else {}


def host_memory(device: str, state: State, found: Traced) -> dict[str, int]:
    """Return the bytes of host memory that a GPU's run needs beside its process, by kind."""
    sizes = {"streamed blocks": state.streamed.in_host_memory(device), "activations": found.host}
    return {kind: size for kind, size in sizes.items() if size}


def loading_bytes(state: State, sizes: Sizes) -> int:
    """Return what exists on a CPU while weights are made of files in another form; 0 where they are used as they lie
    there.
    """
    whole = sum(state.weights.values()) + state.streamed.kept
    return sizes.files + whole + sizes.quantizing if sizes.files else 0


@dataclass(frozen=True)
class Sizes:
    """Further sizes in bytes, which `Memory` says. block: the largest block's frozen weights. files: those of weights
    that are turned into another form. quantizing: what quantizing the largest of them takes.
    """

    logits: int
    dequantized: int
    block: int
    scoring: int | None
    compiled: int
    files: int
    quantizing: int
