"""Carry out runs on this machine, each in a process of its own.

The processes are forked from one that has imported everything: a run begins at once, with nothing that an earlier one
has left, and computes what `reflora train` does in a new process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from typing import TYPE_CHECKING

from reflora_cli.ground.interruption import Interruption

if TYPE_CHECKING:
    from reflora_cli.comparing.work import Assignment

PRELOADED = [
    "reflora_cli.comparing.work",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "sklearn.metrics",
    "transformers.generation",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
]
"""What the processes find imported: what every run needs."""
POLL = 0.2
"""Seconds between two looks for a signal."""
DEVICES = "CUDA_VISIBLE_DEVICES"
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that reach runs through the comparison only."""


@dataclass(frozen=True)
class Ended:
    """A run whose process has ended. number: its place among the assignments. status: 0 for a run that ended well, that
    of `reflora train` otherwise; negative for a process that a signal has killed.
    """

    number: int
    status: int
    seconds: float


@dataclass(frozen=True)
class Slot:
    """Where one run at a time is carried out. device: what it sees of the GPUs; None: all that there is. threads: those
    of its process; None: as many as PyTorch takes.
    """

    device: str | None
    threads: int | None


@dataclass(frozen=True)
class Surroundings:
    """What a new process takes over from this one: a process forked by another one would not have it."""

    directory: str
    environment: Mapping[str, str]


def local_slots(jobs: int | None) -> list[Slot]:
    """Return where runs are carried out: one for each GPU, or a single one without any. jobs: another number of them,
    which share the GPUs or the processors.
    """
    import torch

    gpus = torch.cuda.device_count()
    seen = (os.environ.get(DEVICES) or ",".join(map(str, range(gpus)))).split(",")
    count = jobs or max(1, gpus)
    if gpus:
        return [Slot(seen[number % gpus], None) for number in range(count)]
    chosen = count == 1 or "OMP_NUM_THREADS" in os.environ
    return [Slot(None, None if chosen else max(1, len(os.sched_getaffinity(0)) // count)) for _ in range(count)]


def run_locally(
    slots: Sequence[Slot], assignments: Sequence[Assignment], interruption: Interruption, begun: Callable[[int], None]
) -> Iterator[Ended]:
    """Yield the runs as they end. After a signal, which is sent on to them, those that it stopped are not yielded.

    begun: is told the number of a run that begins.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    resource_tracker.ensure_running()  # which lets signals through again when it has begun
    with deaf():
        forkserver.ensure_running()
    surroundings = Surroundings(os.getcwd(), dict(os.environ))
    waiting, free = deque(enumerate(assignments)), deque(slots)
    running: dict[int, tuple[ForkServerProcess, int, Slot, float]] = {}
    try:
        while (waiting or running) and not interruption.signal:
            while waiting and free:
                number, assignment = waiting.popleft()
                slot = free.popleft()
                process = context.Process(target=begin, args=(assignment, slot, surroundings))
                process.start()
                running[process.sentinel] = (process, number, slot, time.monotonic())
                begun(number)
            ready = wait(list(running), POLL)
            for sentinel in [own for own in running if own in ready]:
                process, number, slot, since = running.pop(sentinel)
                process.join()
                free.append(slot)
                yield Ended(number, process.exitcode or 0, time.monotonic() - since)
    finally:
        for process, *_ in running.values():
            if process.is_alive() and process.pid is not None:
                with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
                    os.kill(process.pid, interruption.signal or signal.SIGTERM)
        for process, *_ in running.values():
            process.join()


@contextmanager
def deaf() -> Iterator[None]:
    """Let a process that is started now never get a signal that is sent to all processes of this group, as `timeout`
    does: were the server of processes ended by it, runs under way would be taken for failed. This process gets what
    came meanwhile afterwards.
    """
    kept = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, kept)


def begin(assignment: Assignment, slot: Slot, surroundings: Surroundings) -> None:
    """Be the process of one run, in a session of its own: a signal to the terminal's processes reaches it only through
    the comparison, once.
    """
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)  # which the server of processes has blocked
    os.chdir(surroundings.directory)
    os.environ.clear()
    os.environ.update(surroundings.environment)
    threading.Thread(target=end_with_parent, daemon=True).start()
    if slot.device is not None:
        os.environ[DEVICES] = slot.device
    import torch

    from reflora_cli.comparing.work import carry_out

    if slot.threads is not None:
        torch.set_num_threads(slot.threads)
    raise SystemExit(carry_out(assignment))


def end_with_parent() -> None:
    """Wait until the comparison's process has ended, and then ask this one to stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
