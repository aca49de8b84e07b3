"""Say what carries out the runs of a comparison, and how many at one time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from reflora_cli.comparing.local import Ended, local_slots, run_locally
from reflora_cli.comparing.on_ray import ray_module, run_on_ray
from reflora_cli.comparing.work import Assignment
from reflora_cli.ground.interruption import Interruption
from reflora_cli.methods.settings import Backend

Runner = Callable[[Sequence[Assignment], Interruption, Callable[[int], None]], Iterator[Ended]]
"""A function that yields runs as they end; it is told of a signal, and tells of each run that begins."""


@dataclass(frozen=True)
class Execution:
    """How runs are carried out. jobs: the most at one time; None: one for each GPU, or one without any; on a cluster as
    many as there is room for.
    """

    backend: Backend = Backend.LOCAL
    jobs: int | None = None


def runner_of(execution: Execution) -> tuple[Runner, int]:
    """Return what carries runs out, and how many at one time. Raises InputError for a library that is missing."""
    if execution.backend is Backend.RAY:
        resources = ray_module().cluster_resources()
        room = int(resources.get("GPU", 0) or resources.get("CPU", 1))
        return partial(run_on_ray, execution.jobs), min(execution.jobs or room, room)
    slots = local_slots(execution.jobs)
    return partial(run_locally, slots), len(slots)
