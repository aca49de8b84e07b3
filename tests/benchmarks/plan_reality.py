"""`reflora plan` against reality on the CPU: ten configurations, each planned, measured and run, one after the other.

    python -m tests.benchmarks.plan_reality [--data DIR] [--encoder NAME] [--only TEXT ...] [--place DIR]
        [--memory | --processor]

Memory is what a process has resident at most, its libraries included: `plan`'s total beside `peak_memory_bytes` of
results.json. Seconds are those of all steps and evaluations: the total of `plan --measure` beside the run's; with
--processor they are those of one processor, which other work on the machine hardly changes. DIR has SST-2 as
`sst2/train.jsonl`; without it a built-in task is taken. NAME is a small encoder; without it there are no configurations
of one. `llama-300m` is a random Llama of 300 million weights, which is written to --place first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflora_cli.console.output import show_table
from reflora_cli.model.sources import BUILTIN

GIB = 2**30
WIDE = {"hidden_size": 1280, "intermediate_size": 3456, "num_hidden_layers": 15, "num_attention_heads": 20,
        "num_key_value_heads": 20}  # fmt: skip
COMMON = ("train.learning_rate=1e-4", "train.warmup_steps=0", "eval.at_start=false", "method.refactor.warmup_steps=2",
          "train.checkpoint_every=1000")  # fmt: skip
SIZES = {
    "encoder": ("task.max_train_rows=320", "task.max_eval_rows=64", "train.batch_size=32",
                "train.micro_batch_size=32", "train.epochs=1"),
    "tiny-llama": ("task.max_train_rows=640", "task.max_eval_rows=64", "train.batch_size=32",
                   "train.micro_batch_size=32", "train.epochs=1"),
    "llama-300m": ("task.max_train_rows=20", "task.max_eval_rows=4", "train.batch_size=2", "train.micro_batch_size=2",
                   "train.epochs=1"),
}  # fmt: skip
RECIPES = {"encoder": "quickstart", "tiny-llama": "quickstart-commonsense", "llama-300m": "quickstart-commonsense"}


@dataclass(frozen=True)
class Case:
    """One configuration. precision: a dtype, or nf4 with float32 around it."""

    base: str
    method: str
    precision: str
    checkpointing: bool = False

    @property
    def name(self) -> str:
        return f"{self.base} {self.method} {self.precision}{' checkpointing' if self.checkpointing else ''}"

    def command(self, bases: dict[str, str], data: Path | None) -> list[str]:
        """Return the recipe and its overrides."""
        packed = self.precision == "nf4"
        on_data = self.base == "encoder" and data is not None
        task = ["task.name=glue/sst2", f"task.data={data}"] if on_data else []
        return [
            RECIPES[self.base], *COMMON, *SIZES[self.base], *task, f"model.name={bases[self.base]}",
            f"method.name={self.method}", f"model.dtype={'float32' if packed else self.precision}",
            *(["model.quantization=nf4"] if packed else []),
            f"train.gradient_checkpointing={str(self.checkpointing).lower()}",
        ]  # fmt: skip


CASES = (
    Case("tiny-llama", "lora", "nf4", checkpointing=True),
    Case("tiny-llama", "dora", "float32"),
    Case("tiny-llama", "full", "bfloat16"),
    Case("llama-300m", "lora", "bfloat16"),
    Case("llama-300m", "dora", "nf4"),
    Case("llama-300m", "reflora", "float32", checkpointing=True),
    Case("encoder", "lora", "float32"),
    Case("encoder", "dora", "bfloat16", checkpointing=True),
    Case("encoder", "reflora", "nf4"),
    Case("encoder", "full", "float32", checkpointing=True),
)


@dataclass(frozen=True)
class Found:
    """Bytes and seconds, as planned and as they were; the load of the machine when the run began. measured: None where
    seconds are not compared.
    """

    planned: int
    peak: int
    measured: float | None
    seconds: float
    load: float

    def row(self, name: str) -> list[str]:
        time = ("-", "-")
        if self.measured is not None:
            time = (f"{self.measured:.1f}", f"{self.measured / self.seconds - 1:+.0%}")
        return [
            name, f"{self.planned / GIB:.2f}", f"{self.peak / GIB:.2f}", f"{self.planned / self.peak - 1:+.0%}",
            time[0], f"{self.seconds:.1f}", time[1], f"{self.load:.1f}",
        ]  # fmt: skip


ORDINARY = ("-m", "reflora_cli")
BY_PROCESSOR = ("-m", "tests.benchmarks.processor_time", "reflora_cli")


def reflora(start: Sequence[str], *arguments: str) -> str:
    """Run a command in a process of its own, with one thread, and return what it prints. start: the interpreter's own
    arguments.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *start, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout


def compared(command: Sequence[str], run: Path, options: Sequence[str], start: Sequence[str]) -> Found:
    """Plan a configuration, with these options, then run it. start: as `reflora` takes it."""
    plan: dict[str, Any] = json.loads(reflora(start, "plan", *command, *options, "--json"))
    load = os.getloadavg()[0]
    try:
        reflora(start, "train", *command, "--output", str(run))
        results: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(run, ignore_errors=True)
    seconds = results["seconds"] + results["evaluation_seconds"]
    measured = plan["measured"]["total"] if "measured" in plan else None
    return Found(plan["memory"]["total"], results["peak_memory_bytes"], measured, seconds, load)


def write_llama(place: Path) -> str:
    """Write a random Llama of 300 million weights with the built-in tokenizer, in a process of its own."""
    directory = place / "llama-300m"
    if not (directory / "model.safetensors").exists():
        directory.mkdir(parents=True, exist_ok=True)
        source = BUILTIN["tiny-llama"]
        for file in source.glob("*.json"):
            shutil.copyfile(file, directory / file.name)
        config = {**json.loads((source / "config.json").read_text(encoding="utf-8")), **WIDE, "head_dim": None}
        config = {key: value for key, value in config.items() if value is not None}
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
        code = "import sys, transformers as t; p = sys.argv[1]; t.AutoModelForCausalLM.from_config("
        code += "t.AutoConfig.from_pretrained(p)).save_pretrained(p)"
        subprocess.run([sys.executable, "-c", code, str(directory)], check=True)
    return str(directory)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.plan_reality", description=__doc__)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--encoder", default=None)
    parser.add_argument("--only", nargs="*", default=[], help="words of a configuration's name")
    parser.add_argument("--place", type=Path, default=None, help="where the random Llama is kept")
    parser.add_argument("--memory", action="store_true", help="memory alone, where other work disturbs seconds")
    parser.add_argument("--processor", action="store_true", help="seconds of one processor, not of the clock")
    given = parser.parse_args(arguments)
    rows, options = [], () if given.memory else ("--measure",)
    start = BY_PROCESSOR if given.processor else ORDINARY
    with tempfile.TemporaryDirectory() as scratch:
        place = given.place or Path(scratch)
        wanted = [case for case in CASES if all(word in case.name.split() for word in given.only)]
        wanted = [case for case in wanted if case.base != "encoder" or given.encoder]
        bases = {"encoder": given.encoder or "", "tiny-llama": "builtin:tiny-llama"}
        if any(case.base == "llama-300m" for case in wanted):
            bases["llama-300m"] = write_llama(place)
        for case in wanted:
            begin = time.perf_counter()
            rows.append(compared(case.command(bases, given.data), Path(scratch) / "run", options, start).row(case.name))
            print(*rows[-1], f"({time.perf_counter() - begin:.0f} s)", file=sys.stderr, flush=True)
    columns = ("configuration", "plan GiB", "peak GiB", "off", "plan s", "run s", "off", "load")
    show_table("plan against reality", columns, rows)


if __name__ == "__main__":
    main()
