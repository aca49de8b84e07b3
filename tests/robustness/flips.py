"""Single bits of checkpoint files, flipped: every one must be noticed before training continues.

    python -m tests.robustness.flips [--flips 200 --seed 0]

Each flip is in a random file of the newest checkpoint. Continuing must pass over that checkpoint, name it, and end
where the uninterrupted run ends.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
from pathlib import Path

from tests.robustness.kills import whole
from tests.robustness.runs import differences, fail, forked, preload, status_of, train_arguments


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.flips", description=__doc__)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    preload()
    draw = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        log, run = base / "log", base / "run"
        whole("reflora", base / "whole", log)
        for number in range(chosen.flips):
            shutil.copytree(base / "whole", run)
            (run / "results.json").unlink()
            newest = max(run.glob("checkpoints/step-*"))
            file = draw.choice(sorted(newest.iterdir()))
            content = bytearray(file.read_bytes())
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            file.write_bytes(content)
            log.write_text("")
            status = status_of(forked(train_arguments("reflora", run), log))
            if status or f"skipped a damaged checkpoint: {newest}" not in log.read_text():
                fail(f"flip {number} in {file.name}: status {status}, not noticed", log)
            if found := differences(run, base / "whole"):
                fail(f"flip {number} in {file.name}: {found}", log)
            shutil.rmtree(run)
    print(f"{chosen.flips} flips, all noticed, all runs ended equal")


if __name__ == "__main__":
    main()
