"""Runs that are stopped at random moments, continued until they are done, and compared with uninterrupted ones.

    python -m tests.robustness.kills [--runs 100 --seed 0 --variants lora dora ...]

Every run is stopped up to three times, by SIGKILL mostly, sometimes by SIGTERM or SIGINT, anywhere from its start to
after its end: while it loads, steps, evaluates or writes. All files but clocks must be equal to the last bit.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

from tests.robustness.runs import VARIANTS, differences, fail, forked, preload, status_of, train_arguments

SIGNALS = [signal.SIGKILL] * 8 + [signal.SIGTERM, signal.SIGINT]
STATUS = {signal.SIGKILL: (-signal.SIGKILL,), signal.SIGTERM: (143, -signal.SIGTERM), signal.SIGINT: (130, 1)}
"""Before a command has begun a signal is Python's: SIGTERM kills, SIGINT aborts with 1."""


def whole(variant: str, run: Path, log: Path) -> float:
    """An uninterrupted run; its seconds."""
    begin = time.monotonic()
    if status_of(forked(train_arguments(variant, run), log)):
        fail(f"{variant}: the uninterrupted run failed", log)
    return time.monotonic() - begin


def stopped(variant: str, run: Path, log: Path, seconds: float, draw: random.Random) -> list[str]:
    """Stop and continue a run until it is done; what happened at each stop."""
    happened = []
    for _ in range(draw.randint(1, 3)):
        kind = draw.choice(SIGNALS)
        pid = forked(train_arguments(variant, run), log)
        time.sleep(draw.uniform(0, seconds))
        os.kill(pid, kind)
        status = status_of(pid)
        if status not in (0, *STATUS[kind]) or "Traceback" in log.read_text():
            fail(f"{variant}: status {status} after {kind.name}", log)
        happened.append(f"{kind.name} {stage(run)}" if status else "done before")
    if status_of(forked(train_arguments(variant, run), log)):
        fail(f"{variant}: it could not be continued after {happened}", log)
    return happened


def stage(run: Path) -> str:
    """How far a run got."""
    checkpoints = list(run.glob("checkpoints/step-*"))
    if (run / "results.json").exists():
        return "after the results"
    if list(run.glob("checkpoints/.*")):
        return "in a checkpoint"
    if checkpoints:
        return "after a checkpoint"
    return "before a checkpoint" if (run / "recipe.yaml").exists() else "before anything"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.kills", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    preload()
    draw = random.Random(chosen.seed)
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        log = base / "log"
        seconds = {variant: whole(variant, base / f"whole {variant}", log) for variant in chosen.variants}
        for number in range(chosen.runs):
            variant = chosen.variants[number % len(chosen.variants)]
            run = base / "stopped"
            happened = stopped(variant, run, log, seconds[variant], draw)
            if found := differences(run, base / f"whole {variant}"):
                fail(f"{variant}, {happened}: {found}", log)
            counts.update([variant, *happened])
            shutil.rmtree(run)
    for what, count in sorted(counts.items()):
        print(f"{count:4d}  {what}")


if __name__ == "__main__":
    main()
