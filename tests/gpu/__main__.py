"""`make gpu`: the tests of this folder on a CUDA machine, then the benchmarks, within eight minutes.

    python -m tests.gpu [--output gpu.json] [--parts NAME ...] [--date 2026-11-28] [--device cpu --tiny]

Needs the package's dependencies with a CUDA build of PyTorch, pytest with pytest-xdist, and peft. Every part is a
process of its own with a limit on its time, so a failure loses only itself. The figures of all parts go to the JSON
file, their tables to the Markdown file beside it. date: the day under which the figures are kept in docs/measured/,
from which the tables of docs/measured.md are then written; without it they stay as they are. tiny: sizes with which a
CPU goes through all parts in a minute or two; such figures say nothing. Exits with 1 when a part failed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from tests.benchmarks.measured import render, write
from tests.benchmarks.parts import Outcome, Part, figures_of
from tests.benchmarks.runner import add_options, run_shown, wanted
from tests.benchmarks.tables import Origin, layers_table, step_table

LIMIT = 470.0
"""Seconds of all parts together."""
LLAMA = "--layers 20 --width 2048 --length 512 --rounds 11"
DEBERTA = "--base deberta --batch 32 --length 128 --rounds 11"
TESTS = "-m pytest tests/gpu -n 6 -W ignore --tb short -p no:cacheprovider"
BILLION, NF4, ENCODER = "layers, bfloat16", "layers, NF4", "layers, DeBERTaV3-base's shape"
PAGES = {BILLION: "layers-gpu", NF4: "layers-gpu-nf4", ENCODER: "layers-gpu-deberta"}
"""The tables of docs/measured.md that come of parts."""
PRODUCTS, STEP = "matrix products", "RefLoRA's computation"


def parts(device: str) -> dict[str, Part]:
    """Every part by its name, tests first."""
    bench, on = "-m tests.benchmarks", f"--device {device}"
    layers = f"{bench}.layers --dtype bfloat16 {on}"
    return {
        "tests": part(TESTS, 200),
        PRODUCTS: part(f"-m tests.gpu.ceiling {on}", 40),
        STEP: part(f"{bench}.reflora_step {on}", 60),
        BILLION: part(f"{layers} {LLAMA}", 90),
        ENCODER: part(f"{layers} {DEBERTA}", 90),
        NF4: part(f"{layers} {LLAMA} --quantization nf4", 90),
        "streamed, 8B in NF4": part(f"-m tests.gpu.streamed {on}", 120),
        "optimizer steps": part(f"{bench}.optimizer_step --settings deberta --rounds 5 {on}", 60),
        "epoch": part(f"{bench}.epochs --rounds 1", 90),
        "kernels": part(f"-m tests.gpu.profile {on} {LLAMA.removesuffix(' --rounds 11')}", 60),
    }


def tiny_parts(device: str) -> dict[str, Part]:
    """The same parts with sizes for a CPU; of the tests only what collecting them imports."""
    bench, on = "-m tests.benchmarks", f"--device {device}"
    llama, small = "--layers 1 --width 256 --batch 1 --length 8", "--layers 2 --width 256 --vocabulary 500 --length 8"
    layers = f"{bench}.layers --dtype bfloat16 --rounds 2 --threads 1 {on}"
    return {
        "tests": part("-m pytest tests/gpu --collect-only -W ignore -p no:cacheprovider", 60),
        PRODUCTS: part(f"-m tests.gpu.ceiling {on}", 60),
        STEP: part(f"{bench}.reflora_step --settings deberta --rounds 1 {on}", 60),
        BILLION: part(f"{layers} {llama}", 60),
        ENCODER: part(f"{layers} --base deberta --layers 1 --batch 1 --length 8", 60),
        NF4: part(f"{layers} {llama} --quantization nf4", 60),
        "streamed, 8B in NF4": part(f"-m tests.gpu.streamed {on} {small}", 60),
        "optimizer steps": part(f"{bench}.optimizer_step --settings deberta --rounds 1 {on}", 60),
        "epoch": part(f"{bench}.epochs --rounds 1 --train-rows 32", 120),
        "kernels": part(f"-m tests.gpu.profile {on} {llama}", 60),
    }


def part(arguments: str, seconds: float) -> Part:
    """A part of Python's arguments."""
    return Part(tuple(arguments.split()), seconds)


def keep(known: Mapping[str, Part], found: Mapping[str, Outcome], date: str) -> None:
    """Write the figures of those parts that docs/measured.md shows and that ended well, and its tables."""
    figures = figures_of(found)
    peak = figures.get(PRODUCTS, {}).get("product_flops")
    for name, page in PAGES.items():
        if name in figures:
            write(page, layers_table(figures[name], Origin(date, known[name].command), peak))
    if STEP in figures:
        write("reflora-step-gpu", step_table(figures[STEP], Origin(date, known[STEP].command)))
    render()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    add_options(parser, "gpu.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    chosen = parser.parse_args()
    if chosen.tiny and chosen.date:
        parser.error("figures of --tiny are not kept: leave --date out")
    known = tiny_parts(chosen.device) if chosen.tiny else parts(chosen.device)
    found = run_shown(wanted(parser, known, chosen.parts), LIMIT, chosen.output)
    if chosen.date:
        keep(known, found, chosen.date)
    sys.exit(any(outcome.status != 0 for outcome in found.values()))


if __name__ == "__main__":
    main()
