"""A plan as tables for people, at most 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from reflora_cli.methods.settings import Attention
from reflora_cli.planning.devices import shown_gib
from reflora_cli.planning.memory import MARGIN, Memory
from reflora_cli.planning.plan import Plan
from reflora_cli.planning.rows import shares_sequences

WIDTH = 76
BAR = 24
"""The characters of a histogram's longest bar."""
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A title, the columns, and rows."""


def facts(plan: Plan) -> dict[str, str]:
    """Return what the run trains and where."""
    weights = {True: "", False: ", weights not available", None: ""}[plan.has_weights]
    share = plan.trained / plan.state.total_parameters
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in plan.state.trained.items())
    targets = ", ".join(f"{pattern} ({count})" for pattern, count in plan.targets.items())
    left = f"{len(plan.left_out)} modules, first {plan.left_out[0]}" if plan.left_out else ""
    return {
        "base": f"{plan.base}, {plan.dtype}{weights}",
        "method": plan.recipe.method.summary,
        "targets": targets or "none",
        **({"not adapted": left} if left else {}),
        "trained": f"{plan.trained:,} of {plan.state.total_parameters:,} ({share:.2%})",
        "by kind": kinds,
        "device": f"{plan.device.name}, {shown_gib(plan.device.memory)}"
        + (f", {plan.processes} processes" if plan.processes > 1 else ""),
    }


def memory_table(memory: Memory) -> Table:
    """Return memory by part, for one device."""
    rows = [(f"weights: {kind}", size) for kind, size in memory.weights.items()]
    rows += [("trained parameters", memory.adapter), ("beside them in adapters", memory.beside),
             ("optimizer state", memory.optimizer), ("the best adapter so far", memory.best),
             ("buckets of reduced gradients", memory.buckets),
             ("activations kept", memory.kept), ("workspace of a pass", memory.workspace)]  # fmt: skip
    rows += [("  of it logits and loss", memory.logits), ("  of it a dequantized weight", memory.dequantized)]
    rows += [("gaps between tensors on the heap", memory.gaps), ("compiled kernels", memory.compiled)]
    rows += [("gradients, at the step", memory.gradients), ("workspace of the step", memory.step)]
    rows += [("an evaluation's batch", memory.scoring or 0), ("before anything is loaded", memory.fixed)]
    rows += [("a checkpoint's copy of the optimizer state", memory.saving)]
    rows += [("while weights are loaded", memory.loading)]
    shown = [[name, shown_gib(size)] for name, size in rows if size]
    total = [["total at the peak", shown_gib(memory.total)],
             [f"margin ({MARGIN:.0%} of all but the last part)", shown_gib(memory.margin)],
             ["there is", shown_gib(memory.available)]]  # fmt: skip
    return "memory of one device", ("part", "size"), [*shown, *total]


def memory_notes(plan: Plan) -> list[str]:
    """Say how the memory was found, and what is not known."""
    memory, batch = plan.memory, plan.batch
    at = max(("a pass", memory.in_pass), ("the optimizer's step", memory.in_step),
             ("an evaluation", memory.scoring or 0), ("a checkpoint", memory.saving),
             ("loading", memory.loading - memory.resident),
             key=lambda own: own[1])[0]  # fmt: skip
    found = [f"the peak is in {at}; of a pass, the step, an evaluation and a checkpoint only the largest counts",
             f"activations: {memory.way}; a batch of {batch.rows} x {batch.length} tokens"]  # fmt: skip
    if memory.scoring is None:
        found.append("the memory of an evaluation could not be estimated for this architecture")
    found.append(f"before anything is loaded: {plan.device.fixed_reason}")
    if plan.device.kind == "cuda":
        found.append("the estimate was not checked on a GPU: kernels may need additional workspaces")
    return [*found, *host_notes(memory), *switch_notes(plan)]


def host_notes(memory: Memory) -> list[str]:
    """Say what a GPU's run keeps in host memory, whose size is not looked at."""
    parts = [f"{shown_gib(size)} for {kind}" for kind, size in memory.host.items()]
    return [f"in host memory, of each process: {', '.join(parts)}"] if parts else []


def switch_notes(plan: Plan) -> list[str]:
    """Say which of the run's settings the estimate does not follow, or only from above."""
    train, attention = plan.recipe.train, plan.recipe.model.attention
    is_gpu_only = attention not in (Attention.AUTO, Attention.EAGER, Attention.SDPA)
    found = [
        ("train.compile: the estimate is without it; what the compiler adds is not known", bool(train.compile)),
        ("train.trim_last_block: the last block is counted whole, which is a little too much", train.trim_last_block),
        ("train.packing of a classifier: rows are counted with padding, which is too much",
         train.packing and not shares_sequences(plan.recipe)),
        (f"model.attention={attention}: counted as the model's default attention", is_gpu_only),
        ("train.offload_activations saves nothing on a CPU, whose memory is host memory",
         train.offload_activations and plan.device.kind == "cpu"),
    ]  # fmt: skip
    return [note for note, holds in found if holds]


def notes(plan: Plan) -> list[str]:
    """Return the notes on memory as lines that fit into 80 columns."""
    return [
        line
        for note in memory_notes(plan)
        for line in textwrap.wrap(note, WIDTH, initial_indent="  ", subsequent_indent="    ")
    ]


def data_facts(plan: Plan) -> dict[str, str]:
    """Return rows, tokens, steps and evaluations."""
    train, epoch, lengths = plan.recipe.train, plan.epoch, plan.lengths
    found = {}
    if lengths is None:
        found["rows"] = f"not known ({plan.missing}): every row is assumed to have {plan.batch.length} tokens"
    else:
        dropped = f", {lengths.dropped:,} dropped" if lengths.dropped else ""
        found["rows"] = f"{lengths.rows:,}, {lengths.cut:,} cut by max_length{dropped}"
        found["tokens"] = f"{lengths.shortest} to {lengths.longest} in a row, half of the rows at most {lengths.median}"
    if epoch is not None:
        waste = 1 - epoch.tokens / epoch.padded
        packed = f" in {epoch.sequences:,} packed sequences" if plan.batch.packed else ""
        found["an epoch"] = f"{epoch.tokens:,} tokens{packed}, {epoch.padded:,} with padding ({waste:.0%})"
    steps = "not known" if plan.steps is None else f"{plan.steps:,}"
    each = f", {plan.steps_per_epoch:,} in an epoch" if plan.steps_per_epoch else ""
    found["steps"] = f"{steps} of {train.batch_size} rows{each}"
    return {**found, **evaluation_facts(plan), **disk_facts(plan)}


def evaluation_facts(plan: Plan) -> dict[str, str]:
    """Return the cost of evaluations."""
    times, splits = plan.scoring.times, plan.scoring.splits
    if times == 0:
        return {"evaluations": "none"}
    each = "; ".join(
        f"{own.name}: {own.rows:,} rows by {own.way}"
        + (f", at most {own.generated:,} tokens generated" if own.generated else "")
        for own in splits
    )
    return {
        "evaluations": f"{'their number is not known' if times is None else times}{', each ' + each if each else ''}"
    }


def disk_facts(plan: Plan) -> dict[str, str]:
    """Return what is written."""
    disk = plan.disk
    written = "" if disk.written is None else f"{disk.written} written, "
    kept = f"{written}the newest {disk.kept} kept, {shown_gib(disk.checkpoint)} each"
    return {
        "checkpoints": kept,
        "disk": f"{shown_gib(disk.needed)} at most, {shown_gib(disk.free)} free; adapter {shown_gib(disk.adapter)}",
    }


def histogram_table(plan: Plan) -> Table | None:
    """Return the rows by their number of tokens."""
    if plan.lengths is None:
        return None
    most = max(count for _, _, count in plan.lengths.bars)
    rows = [
        [f"{low} to {high}" if high > low else str(low), f"{count:,}", "#" * -(-BAR * count // most)]
        for low, high, count in plan.lengths.bars
    ]
    return "training rows by length", ("tokens", "rows", ""), rows


def wrapped(rows: Mapping[str, str]) -> list[str]:
    """Return facts as lines that fit into 80 columns."""
    width = max(map(len, rows), default=0)
    lines = []
    for name, value in rows.items():
        first, *more = textwrap.wrap(value, WIDTH - width - 2, break_on_hyphens=False) or [""]
        lines += [f"  {name.ljust(width)}  {first}", *(f"  {' ' * width}  {own}" for own in more)]
    return lines
