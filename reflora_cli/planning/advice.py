"""What to change of a run that does not fit, and what each change would give: computed, as the plan itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from reflora_cli.console.reporter import Reporter
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.settings import Optimizer, Quantization, Streaming
from reflora_cli.planning.devices import shown_gib
from reflora_cli.planning.known import Known
from reflora_cli.planning.memory import Memory
from reflora_cli.planning.plan import Plan, Request, planned
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.sections import Recipe

Changes = tuple[str, ...]
Peak = Callable[[Changes], "Plan | None"]
ON_HOST = ("train.offload_activations=true", "model.streaming=host")
"""The changes that keep something in host memory."""


def candidates(plan: Plan) -> list[str]:
    """Return the overrides that may save memory: those first that change what is learned least, then those that take
    host memory and time, then shorter rows.
    """
    model, train, task = plan.recipe.model, plan.recipe.train, plan.recipe.task
    has_gpu = plan.device.kind == "cuda"
    wanted = [
        ("train.micro_batch_size=1", train.micro_batch_size > 1),
        ("train.gradient_checkpointing=true", not train.gradient_checkpointing),
        ("eval.batch_size=1", plan.recipe.eval.batch_size > 1),
        ("train.packing=true", not train.packing and plan.scoring is not None),
        ("model.dtype=bfloat16", plan.dtype == "float32" and has_gpu and plan.device.has_bfloat16),
        ("train.optimizer=adamw_8bit", train.optimizer is Optimizer.ADAMW),
        ("model.quantization=nf4", model.quantization is Quantization.NONE),
        ("train.offload_activations=true", has_gpu and not train.offload_activations),
        ("model.streaming=host", has_gpu and model.streaming is Streaming.NONE),
        (f"task.max_length={task.max_length // 2}", task.max_length >= 64),
    ]
    return [change for change, helps in wanted if helps]


@dataclass(frozen=True)
class Advice:
    """What was found. alone: the total with each change by itself, and what it takes of host memory. together: the
    smallest combination that fits, with its total; nothing where none does.
    """

    alone: dict[str, int]
    host: dict[str, int]
    together: Changes
    total: int | None

    def record(self) -> dict[str, Any]:
        return {"alone": self.alone, "host": self.host, "overrides": list(self.together), "total": self.total}


def advise(
    name: str, overrides: Sequence[str], request: Request, plan: Plan, known: Known, reporter: Reporter
) -> dict[str, Any]:
    """Show what to change, and return it for `--json`. name, overrides: the recipe, as the command was given it. known:
    what the plan found, which its alternatives share.
    """

    @cache
    def changed(changes: Changes) -> Plan | None:
        return plan_with(name, (*overrides, *changes), request, known)

    found = searched(candidates(plan), changed, plan)
    for change, total in found.alone.items():
        saved = plan.memory.total - total
        beside = f", {shown_gib(found.host[change])} in host memory" if change in found.host else ""
        reporter.note(f"  {change}: {shown_gib(total)}, {shown_gib(saved)} less{beside}")
    if found.total is not None:
        reporter.note(f"the smallest change that fits, {shown_gib(found.total)} and its margin:")
        reporter.note(f"  {' '.join(found.together)}")
    else:
        reporter.note("no combination of these changes fits: use a smaller base, or a larger GPU")
    return found.record()


def searched(changes: Sequence[str], changed: Peak, plan: Plan) -> Advice:
    """Return what each change gives alone, and the first of the smallest combinations that fits: one without host
    memory, through which weights and activations come slowly, if there is any.
    """
    single = {change: own.memory for change in changes if (own := changed((change,))) is not None}
    useful = [change for change, own in single.items() if any(saved_parts(plan.memory, own))]
    alone = {change: single[change].total for change in useful if single[change].total < plan.memory.total}
    host = {change: sum(single[change].host.values()) for change in alone if single[change].host}
    resident = [own for own in useful if own not in ON_HOST]
    for usable in (resident, *([*resident, own] for own in useful if own in ON_HOST), useful):
        some = smallest(usable, single, changed, plan)
        if some:
            together = as_large_as_fits(some, changed, plan)
            return Advice(alone, host, together, total_of(changed(together)))
    return Advice(alone, host, (), None)


def smallest(changes: Sequence[str], single: Mapping[str, Memory], changed: Peak, plan: Plan) -> Changes:
    """Return the first of the smallest combinations that fits, or nothing. single: what a run takes with each change.

    No change makes a run take more. So where all together do not fit, no combination does, and one without which all
    others do not fit is in every one that fits.
    """
    needed = necessary(changes, changed)
    if needed is None:
        return ()
    for some in combinations(changes):
        if not needed <= set(some) or least(plan.memory, [single[own] for own in some]) > plan.memory.available:
            continue
        found = changed(some)
        if found is not None and found.memory.fits:
            return some
    return ()


def parts_of(memory: Memory) -> tuple[int, ...]:
    """Return the parts of which the total is made: those that stay, of all others the largest, and that of loading."""
    beside = (memory.in_pass, memory.in_step, memory.scoring or 0, memory.saving)
    return memory.resident, *beside, memory.loading


def saved_parts(memory: Memory, other: Memory) -> tuple[int, ...]:
    """Return what another plan saves of each part."""
    return tuple(max(0, own - less) for own, less in zip(parts_of(memory), parts_of(other), strict=True))


def least(memory: Memory, others: Sequence[Memory]) -> int:
    """Return what changes take at least together: as if all that each saves of a part added up."""
    saved = [sum(own) for own in zip(*(saved_parts(memory, other) for other in others), strict=True)]
    resident, *beside, loading = (own - less for own, less in zip(parts_of(memory), saved, strict=True))
    total: int = memory.fixed + max(0, resident + max(beside), loading)
    return total


def necessary(changes: Sequence[str], changed: Peak) -> set[str] | None:
    """Return the changes without which all others together do not fit; None where all together do not."""

    def fits(some: Sequence[str]) -> bool:
        found = changed(tuple(some))
        return found is not None and found.memory.fits

    if not fits(changes):
        return None
    return {own for own in changes if not fits([other for other in changes if other != own])}


def combinations(changes: Sequence[str]) -> Iterator[Changes]:
    """Yield all combinations, the smallest first."""
    for size in range(1, len(changes) + 1):
        yield from itertools.combinations(changes, size)


def as_large_as_fits(own: Changes, changed: Peak, plan: Plan) -> Changes:
    """Return the combination with the largest batches, of powers of two, with which it still fits."""
    best, recipe = own, plan.recipe
    sizes = {"train.micro_batch_size": recipe.train.micro_batch_size, "eval.batch_size": recipe.eval.batch_size}
    for key, size in sizes.items():
        power = 2
        while f"{key}={power // 2}" in best and power < size:
            larger = tuple(f"{key}={power}" if one.startswith(f"{key}=") else one for one in best)
            found = changed(larger)
            if found is None or not found.memory.fits:
                break
            best, power = larger, power * 2
    return best


def total_of(plan: Plan | None) -> int | None:
    return None if plan is None else plan.memory.total


def plan_with(name: str, overrides: Sequence[str], request: Request, known: Known) -> Plan | None:
    """Return the plan with these overrides; None where the recipe forbids them."""
    try:
        recipe: Recipe = load_recipe(name, list(overrides))
        return planned(recipe, request, known)
    except InputError:
        return None
