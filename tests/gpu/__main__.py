"""`make gpu`: the tests of this folder on a CUDA machine, then the benchmarks, within eight minutes.

    python -m tests.gpu [--output gpu.json] [--parts NAME ...]

Needs the package's dependencies with a CUDA build of PyTorch, pytest with pytest-xdist, and peft. Every part is a
process of its own with a limit on its time, so a failure loses only itself. The figures of all parts go to the JSON
file, their tables to the Markdown file beside it. Exits with 1 when a part failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

LARGE = ("--dtype", "bfloat16", "--layers", "20", "--width", "2048", "--length", "512", "--rounds", "11")
DEBERTA = ("--dtype", "bfloat16", "--base", "deberta", "--batch", "32", "--length", "128", "--rounds", "11")


@dataclass(frozen=True)
class Part:
    """What one process runs (the arguments of Python) and how many seconds it may take."""

    arguments: tuple[str, ...]
    seconds: int


def parts(device: str) -> dict[str, Part]:
    """Every part by its name, tests first."""
    bench, on = "tests.benchmarks", ("--device", device)
    plainly = ("-n", "6", "-W", "ignore", "--tb", "short", "-p", "no:cacheprovider")
    return {
        "tests": Part(("-m", "pytest", "tests/gpu", *plainly), 150),
        "matrix products": Part(("-m", "tests.gpu.ceiling", *on), 40),
        "RefLoRA's computation": Part(("-m", f"{bench}.reflora_step", *on), 60),
        "layers, bfloat16": Part(("-m", f"{bench}.layers", *LARGE, *on), 90),
        "layers, NF4": Part(("-m", f"{bench}.layers", *LARGE, "--quantization", "nf4", *on), 90),
        "layers, DeBERTaV3-base's shape": Part(("-m", f"{bench}.layers", *DEBERTA, *on), 90),
        "epoch": Part(("-m", f"{bench}.epochs", "--rounds", "2"), 90),
    }


@dataclass(frozen=True)
class Outcome:
    """How a part ended: its exit status (None where its time ran out), its figures, what it printed, seconds."""

    status: int | None
    figures: object
    printed: str
    seconds: float


def run(part: Part) -> Outcome:
    """Run a part. Its last line on stdout holds its figures where that line is JSON."""
    begin = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *part.arguments], capture_output=True, text=True, timeout=part.seconds, check=False
        )
        status, out, err = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        status, out, err = None, decoded(late.stdout), decoded(late.stderr)
    lines = out.splitlines()
    try:
        figures = json.loads(lines[-1])
        lines.pop()
    except (IndexError, ValueError):
        figures = None
    return Outcome(status, figures, "\n".join((*lines, err)), time.monotonic() - begin)


def decoded(output: bytes | str | None) -> str:
    """What a process that was ended had printed."""
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def shown(name: str, outcome: Outcome) -> str:
    """A part as Markdown: its tables, or the end of what it printed where it failed."""
    ended = {0: "done", None: "ended at its limit of time"}.get(outcome.status, f"failed with {outcome.status}")
    kept = 60 if outcome.status == 0 else 150
    text = "\n".join(outcome.printed.strip().splitlines()[-kept:])
    return f"## {name}: {ended}, {outcome.seconds:.0f} s\n\n```\n{text}\n```\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", default=None)
    chosen = parser.parse_args()
    known = parts(chosen.device)
    if unknown := set(chosen.parts or ()) - set(known):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    found: dict[str, Outcome] = {}
    for name, part in known.items():
        if chosen.parts is None or name in chosen.parts:
            found[name] = run(part)
            print(shown(name, found[name]), flush=True)
            figures = {key: own.figures for key, own in found.items()}
            chosen.output.write_text(json.dumps({"machine": machine, "torch": torch.__version__, "parts": figures}))
            tables = "\n".join(shown(key, own) for key, own in found.items())
            title = f"# {machine}, torch {torch.__version__}"
            chosen.output.with_suffix(".md").write_text(f"{title}\n\n{tables}", encoding="utf-8")
    sys.exit(any(outcome.status != 0 for outcome in found.values()))


if __name__ == "__main__":
    main()
