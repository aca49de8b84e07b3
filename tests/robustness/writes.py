"""Merging and exporting, killed and terminated at random moments: a whole result or nothing, and no litter.

    python -m tests.robustness.writes [--stops 4 --seed 0]

Every command is stopped while it works, again and again, and then left to end: only the finished result is ever seen,
and what was left by killed ones is gone.
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

from tests.robustness.kills import whole
from tests.robustness.runs import fail, forked, preload, status_of

FILES = {
    "merge": ("model.safetensors", "config.json", "merge.json", "README.md"),
    "peft": ("adapter_model.safetensors", "adapter_config.json", "README.md"),
    "onnx": ("model.onnx", "README.md"),
    "gguf": ("model.gguf", "Modelfile", "README.md"),
}
"""What is there when a command is done."""
KILLERS = (signal.SIGKILL, signal.SIGTERM)
QUESTIONS = (
    "train", "quickstart-commonsense", "task.max_train_rows=32", "task.max_eval_rows=8", "train.epochs=1",
    "method.name=lora", "train.warmup_steps=0", "eval.every=never", "eval.select=last", "eval.at_start=false",
)  # fmt: skip


def command(kind: str, run: Path, output: Path) -> list[str]:
    how = ["merge", str(run)] if kind == "merge" else ["export", str(run), "--format", kind]
    return [*how, "--output", str(output)]


def writing(arguments: list[str], place: Path, log: Path) -> int:
    """Run a command up to where it begins to write in a directory; its process id."""
    before = set(place.iterdir())
    pid = forked(arguments, log)
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) and set(place.iterdir()) <= before:
        time.sleep(0.001)
    return pid


def stopped(arguments: list[str], place: Path, log: Path, seconds: float, killer: signal.Signals) -> bool:
    """Send the signal that long after something is written; whether the command ended by it.

    A command that was terminated leaves nothing of its own; one that was killed cannot help it.
    """
    before = set(place.iterdir())
    pid = writing(arguments, place, log)
    time.sleep(seconds)
    os.kill(pid, killer)
    status = status_of(pid)
    expected = (0, 143, -killer) if killer is signal.SIGTERM else (0, -killer)
    if status not in expected or "Traceback" in log.read_text():
        fail(f"{arguments}: status {status} after {killer.name}", log)
    if status and killer is signal.SIGTERM and not set(place.iterdir()) <= before:
        fail(f"{arguments}: terminated, it left {list(place.iterdir())}", log)
    return status != 0


def check(kind: str, run: Path, place: Path, log: Path, stops: int, draw: random.Random) -> collections.Counter[str]:
    """Stop a command some times and let it end; what happened."""
    output = place / "out"
    pid = writing(command(kind, run, place / "whole"), place, log)
    begin = time.monotonic()
    if status_of(pid):
        fail(f"{kind} failed", log)
    seconds = time.monotonic() - begin
    (place / "whole").rename(place.parent / f"whole {kind}")
    counts: collections.Counter[str] = collections.Counter()
    for number in range(stops):
        killer = KILLERS[number % 2]
        was_stopped = stopped(command(kind, run, output), place, log, draw.uniform(0, seconds), killer)
        counts[f"{kind}: {killer.name}" if was_stopped else f"{kind}: done before"] += 1
        if output.exists():  # it was done before
            shutil.rmtree(output)
    if status_of(forked(command(kind, run, output), log)):
        fail(f"{kind}: it failed after it was stopped", log)
    missing = [name for name in FILES[kind] if not (output / name).stat().st_size]
    litter = [path.name for path in place.iterdir() if path != output]
    if missing or litter:
        fail(f"{kind}: missing {missing}, left {litter}", log)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.writes", description=__doc__)
    parser.add_argument("--stops", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=FILES, default=list(FILES))
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    preload()
    draw = random.Random(chosen.seed)
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        log = base / "log"
        whole("reflora", base / "labels", log)
        if status_of(forked([*QUESTIONS, "--output", str(base / "answers")], log)):
            fail("the language model's run failed", log)
        for kind in chosen.kinds:
            (base / kind).mkdir()
            run = base / ("answers" if kind == "gguf" else "labels")
            counts += check(kind, run, base / kind, log, chosen.stops, draw)
    for what, count in sorted(counts.items()):
        print(f"{count:4d}  {what}")


if __name__ == "__main__":
    main()
