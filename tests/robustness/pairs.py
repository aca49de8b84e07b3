"""Runs of two processes (gloo), one of which is stopped at a random moment, continued until they are done.

    python -m tests.robustness.pairs [--runs 20 --seed 0]

As under torchrun, when one process ends otherwise than well the other one gets SIGTERM. Both must have ended within a
minute; continued, the run must be equal to an uninterrupted one, to the last bit.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import shutil
import signal
import socket
import tempfile
import time
from pathlib import Path

from tests.robustness.kills import SIGNALS, stage
from tests.robustness.runs import differences, fail, forked, preload, train_arguments

VARIANT = "reflora"
MOST_SECONDS = 60


def started(arguments: list[str], log: Path, output: Path | None = None) -> list[int]:
    """Run a command in two processes; the process ids by rank. output: the file of their standard output, as in
    `forked`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    ranks = ({**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2))
    return [forked(arguments, log, own, output) for own in ranks]


def ended(pids: list[int]) -> list[int]:
    """Exit statuses by rank; when one process fails the other is asked to stop, and killed after MOST_SECONDS."""
    statuses: dict[int, int] = {}
    deadline = None
    while len(statuses) < len(pids):
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            statuses[pid] = os.waitstatus_to_exitcode(status)
            if statuses[pid] and deadline is None:
                deadline = time.monotonic() + MOST_SECONDS
                signal_all(set(pids) - statuses.keys(), signal.SIGTERM)
        elif deadline and time.monotonic() > deadline:
            signal_all(set(pids) - statuses.keys(), signal.SIGKILL)
            raise SystemExit(f"a process did not end within {MOST_SECONDS} s of the other's end")
        else:
            time.sleep(0.01)
    return [statuses[pid] for pid in pids]


def signal_all(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def done(run: Path, log: Path) -> None:
    """Begin or continue a run to its end."""
    log.write_text("")
    if any(ended(started(train_arguments(VARIANT, run), log))):
        fail("two processes failed", log)


def agreed(run: Path, log: Path) -> None:
    """A signal that one of them gets stops both after the same step, with a checkpoint, and nothing else said."""
    pids = started(train_arguments(VARIANT, run), log)
    while not list(run.glob("checkpoints/step-*")):
        time.sleep(0.01)
    os.kill(pids[1], signal.SIGTERM)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    said = log.read_text()
    if statuses != [143, 143] or not list(run.glob("checkpoints/step-*-stopped")) or "Traceback" in said:
        fail(f"statuses {statuses} after SIGTERM to one of them", log)
    if said.count("stopped by SIGTERM after step") != 1:
        fail("the end is not told once", log)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.pairs", description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    preload()
    draw = random.Random(chosen.seed)
    counts: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as place:
        log, run, whole = Path(place) / "log", Path(place) / "run", Path(place) / "whole"
        begin = time.monotonic()
        done(whole, log)
        seconds = time.monotonic() - begin
        agreed(run, log)
        done(run, log)
        if found := differences(run, whole):
            fail(f"stopped by one's signal: {found}", log)
        shutil.rmtree(run)
        for _ in range(chosen.runs):
            kind, rank = draw.choice(SIGNALS), draw.randrange(2)
            pids = started(train_arguments(VARIANT, run), log)
            time.sleep(draw.uniform(0, seconds))
            os.kill(pids[rank], kind)
            begin = time.monotonic()
            statuses = ended(pids)
            if any(statuses):
                slowest = max(slowest, time.monotonic() - begin)
            counts[f"{kind.name} rank {rank} {stage(run)}" if any(statuses) else "done before"] += 1
            done(run, log)
            if found := differences(run, whole):
                fail(f"{kind.name} of rank {rank}, statuses {statuses}: {found}", log)
            shutil.rmtree(run)
    for what, count in sorted(counts.items()):
        print(f"{count:4d}  {what}")
    print(f"all continued equal; after a signal both had ended within {slowest:.1f} s")


if __name__ == "__main__":
    main()
