"""A long run: memory, file descriptors and disk must stay where they are.

    python -m tests.robustness.soak [--steps 20000]

Prints resident memory with its slope over the second half, descriptors, and the size of the run directory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from tests.robustness.runs import preload

SETTINGS = (
    "method.name=reflora", "method.rank=4", "method.refactor.warmup_steps=20", "task.max_train_rows=64",
    "task.max_eval_rows=8", "task.max_length=16", "train.batch_size=2", "train.micro_batch_size=2",
    "train.log_every=100", "train.checkpoint_every=500", "eval.every=500", "train.epochs=null",
)  # fmt: skip


def watch(run: Path, found: list[tuple[float, int, int, int]], done: threading.Event) -> None:
    """(seconds, resident bytes, descriptors, bytes on disk but for the log) twice a second."""
    begin, page = time.monotonic(), os.sysconf("SC_PAGE_SIZE")
    while not done.wait(0.5):
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
        descriptors = len(os.listdir("/proc/self/fd"))
        size = 0
        for path in run.rglob("*"):
            try:
                size += path.stat().st_size if path.is_file() and path.suffix != ".jsonl" else 0
            except FileNotFoundError:
                continue  # removed while we look
        found.append((time.monotonic() - begin, resident, descriptors, size))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.soak", description=__doc__)
    parser.add_argument("--steps", type=int, default=20000)
    steps = parser.parse_args().steps
    os.environ["OMP_NUM_THREADS"] = "1"
    preload()
    from reflora_cli.console.reporter import SilentReporter
    from reflora_cli.recipe.files import load_recipe
    from reflora_cli.training.train import train

    found: list[tuple[float, int, int, int]] = []
    done = threading.Event()
    with tempfile.TemporaryDirectory() as place:
        run = Path(place) / "run"
        watcher = threading.Thread(target=watch, args=(run, found, done))
        watcher.start()
        try:
            train(load_recipe("quickstart", [*SETTINGS, f"train.steps={steps}"]), run, False, SilentReporter())
        finally:
            done.set()
            watcher.join()
        log = (run / "metrics.jsonl").stat().st_size
    seconds, resident, descriptors, size = (np.array(column) for column in zip(*found, strict=True))
    half = len(seconds) // 2
    slope = np.polyfit(seconds[half:], resident[half:], 1)[0] * (seconds[-1] - seconds[half])
    print(f"{steps} steps in {seconds[-1]:.0f} s")
    print(f"resident: {resident[half] / 2**20:.1f} MiB at half, {resident[-1] / 2**20:.1f} at the end; "
          f"over the second half its fitted line rises by {slope / 2**20:.2f} MiB")  # fmt: skip
    print(f"descriptors: {descriptors[half:].min()} to {descriptors[half:].max()}")
    print(f"disk: at most {size.max() / 2**20:.1f} MiB, log {log / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
