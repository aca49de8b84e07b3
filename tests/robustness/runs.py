"""Small runs that use all that a checkpoint must hold, in processes that start at once, and how two of them compare."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SETTINGS = (
    "task.max_train_rows=44", "task.max_eval_rows=24", "task.max_length=40", "train.batch_size=8",
    "train.micro_batch_size=3", "train.epochs=2", "train.log_every=5", "train.checkpoint_every=2",
    "method.rank=4", "method.dropout=0.1", "method.refactor.warmup_steps=2", "method.refactor.interval=3",
    "eval.every=4", "eval.at_start=true", "eval.select=best",
)  # fmt: skip
"""12 steps: an epoch is no multiple of a step's rows, a log line and an interval of RefLoRA span checkpoints."""
VARIANTS: dict[str, tuple[str, ...]] = {
    "lora": ("method.name=lora",),
    "dora": ("method.name=dora",),
    "reflora": ("method.name=reflora",),
    "reflora-s": ("method.name=reflora-s",),
    "reflora, nf4": ("method.name=reflora", "model.quantization=nf4"),
    "dora, bfloat16, 8-bit moments": ("method.name=dora", "model.dtype=bfloat16", "train.optimizer=adamw_8bit"),
}
CLOCKS = ("seconds", "examples_per_second", "seconds_per_epoch", "evaluation_seconds", "step_seconds", "times",
          "compile_seconds", "tokens_per_second", "peak_memory_bytes", "run", "resumed")  # fmt: skip
"""What two equal runs do not have in common."""
PRELOADED = (
    "bitsandbytes",
    "matplotlib.figure",
    "transformers.models.llama.modeling_llama",
    "reflora_cli.cli.train",
    "reflora_cli.training.train",
)


def preload() -> None:
    """Import what a run imports, so that forked ones need not."""
    for name in PRELOADED:
        importlib.import_module(name)


def forked(
    arguments: list[str], log: Path, environment: Mapping[str, str] | None = None, output: Path | None = None
) -> int:
    """Run the command in a forked process; its process id.

    environment: what is set for it alone. output: the file of its standard output, by default that of what it says.
    """
    pid = os.fork()
    if pid:
        return pid
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what runs in the background of a shell
    os.environ.update(environment or {})
    for stream, file in ((1, output or log), (2, log)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    status = 1
    try:
        from reflora_cli.cli import app

        app(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(status)


def status_of(pid: int) -> int:
    """The exit status, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def train_arguments(variant: str, run: Path, *more: str) -> list[str]:
    """The command that begins or continues a run, whatever is there."""
    resume = ["--resume"] if (run / "recipe.yaml").is_file() else []
    return ["train", "quickstart", *SETTINGS, *VARIANTS[variant], *more, "--output", str(run), *resume]


def timeless(value: Any) -> Any:
    """JSON without what clocks say."""
    if isinstance(value, dict):
        return {key: timeless(entry) for key, entry in value.items() if key not in CLOCKS}
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


def differences(one: Path, other: Path) -> list[str]:
    """Files in which two finished runs differ beyond their clocks."""
    found = []
    # A lock that could not be removed is held by nobody; when a run was continued stands in a file of its own.
    ignored = (".lock", "resumed.jsonl")
    files = [[path for path in run.rglob("*") if path.is_file() and path.name not in ignored] for run in (one, other)]
    names = [sorted(str(path.relative_to(run)) for path in own) for run, own in zip((one, other), files, strict=True)]
    if names[0] != names[1]:
        found.append(f"files: {set(names[0]) ^ set(names[1])}")
    for name in set(names[0]) & set(names[1]):
        if name.endswith((".png", ".svg", "manifest.json", "environment.json")):
            continue  # drawings of clocks and of continuations, digests of files that hold clocks
        contents = [(run / name).read_text() if "json" in name else (run / name).read_bytes() for run in (one, other)]
        if name.endswith(".jsonl"):
            contents = [[timeless(json.loads(line)) for line in str(text).splitlines()] for text in contents]
        elif name.endswith(".json"):
            contents = [timeless(json.loads(text)) for text in contents]
        if contents[0] != contents[1]:
            found.append(name)
    return found


def fail(message: str, log: Path) -> None:
    print(message, log.read_text(errors="replace")[-3000:], sep="\n", file=sys.stderr)
    raise SystemExit(1)
