"""Carry out runs on a cluster: each is one task of Ray, which finds a machine for it.

The comparison's directory, the data and the bases must be on storage that all machines share, under the same paths.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from reflora_cli.comparing.local import POLL, Ended
from reflora_cli.ground.extras import EXTRAS
from reflora_cli.ground.interruption import Interruption

if TYPE_CHECKING:
    from reflora_cli.comparing.work import Assignment


def ray_module() -> Any:
    """Return Ray, connected to the cluster that RAY_ADDRESS names, or else to one of this machine alone. Raises
    InputError where it is not installed.
    """
    EXTRAS["ray"].require("--backend ray")
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    return ray


def run_on_ray(
    jobs: int | None, assignments: Sequence[Assignment], interruption: Interruption, begun: Callable[[int], None]
) -> Iterator[Ended]:
    """Yield the runs as they end. After a signal the others are cancelled, and are not yielded.

    jobs: the most runs at one time; None: as many as the cluster has room for. begun: is told the number of a run that
    is submitted.
    """
    ray = ray_module()
    gpus = min(1, int(ray.cluster_resources().get("GPU", 0)))
    # A worker serves one task, so that a run finds nothing that an earlier one has left.
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_calls=1, max_retries=0)(of_task)
    directory, waiting = os.getcwd(), list(enumerate(assignments))
    running: dict[Any, tuple[int, float]] = {}
    try:
        while (waiting or running) and not interruption.signal:
            while waiting and (jobs is None or len(running) < jobs):
                number, assignment = waiting.pop(0)
                running[task.remote(assignment, directory)] = (number, time.monotonic())
                begun(number)
            ready, _ = ray.wait(list(running), num_returns=1, timeout=POLL)
            for reference in ready:
                number, since = running.pop(reference)
                yield Ended(number, status_of(ray, reference), time.monotonic() - since)
    finally:
        for reference in running:
            ray.cancel(reference)
        if running:
            ray.wait(list(running), num_returns=len(running))


def status_of(ray: Any, reference: Any) -> int:
    """Return the exit status of a task; that of a killed process where its worker has died."""
    try:
        return int(ray.get(reference))
    except ray.exceptions.RayError:
        return -1


def of_task(assignment: Assignment, directory: str) -> int:
    """Be the task of one run."""
    os.chdir(directory)
    from reflora_cli.comparing.work import carry_out

    return carry_out(assignment)
