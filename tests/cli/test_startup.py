"""What a command loads: seconds that every start of it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUN = """
import sys
from reflora_cli.cli import app

app(sys.argv[1:], standalone_mode=False)
unneeded = ("bitsandbytes", "datasets", "pandas", "peft", "pyarrow", "sklearn", "tensorboard", "torchvision", "trackio")
print("loaded:", *(name for name in ("matplotlib", "torch", *unneeded) if name in sys.modules))
"""
SHORT = ("task.max_train_rows=32", "task.max_eval_rows=16", "train.epochs=1", "method.name=lora")


def test_a_run_loads_no_library_that_it_does_not_need(recipe: Path, tmp_path: Path) -> None:
    """torch trains, and matplotlib draws the curves at the end: the names are those of modules."""
    command = [sys.executable, "-c", RUN, "train", str(recipe), *SHORT, "--output", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: matplotlib torch"
