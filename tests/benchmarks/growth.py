"""How a step's time and memory grow with rank, length and the number of modules, beyond those of the frozen base.

    python -m tests.benchmarks.growth [--rounds 7 --plot growth.png]

A Llama 256 wide, batch 4. One of the three grows, the others stay at rank 16, length 128, 28 modules. What is shown is
what a method adds to the frozen base, forward, backward and its update rule, and the power of x with which it grows
between the ends of each series: mathematics says 1 for rank, length and modules (RefLoRA's factorizations grow with the
third power of the rank, its Grams with the second).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from reflora_cli.console.output import show_table
from tests.benchmarks.layers import saved_bytes, stepper, timed_step
from tests.benchmarks.variants import nothing, with_ours

SERIES: dict[str, list[int]] = {
    "rank": [4, 8, 16, 32, 64, 128],
    "length": [64, 128, 256, 512, 1024],
    "modules": [28, 56, 112, 224],
}
METHODS = ("lora", "dora", "reflora")


@dataclass(frozen=True)
class Size:
    """One point of a series."""

    rank: int = 16
    length: int = 128
    modules: int = 28


@dataclass(frozen=True)
class Cost:
    """What a method adds to the frozen base: median seconds of a step, and saved bytes."""

    seconds: float
    saved: int


def make_base(size: Size) -> Any:
    """Seven linear layers to a block."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=256, intermediate_size=688, num_hidden_layers=size.modules // 7,
        num_attention_heads=4, max_position_embeddings=1024, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).requires_grad_(False).train()


def costs(size: Size, rounds: int) -> dict[str, Cost]:
    """Of every method, measured in turn with the frozen base."""
    base = make_base(size)
    embedded = base.get_input_embeddings()(torch.randint(0, 1000, (4, size.length)))
    built = {"floor": (base, nothing)}
    built |= {name: with_ours(base, name, size.rank, "all-linear") for name in METHODS}
    forwards = {name: stepper(model, embedded) for name, (model, _) in built.items()}
    saved = {name: saved_bytes(forwards[name], model) for name, (model, _) in built.items()}
    seconds: dict[str, list[float]] = {name: [] for name in built}
    for number in range(rounds + 1):
        for name, way in built.items():
            taken = timed_step(way, forwards[name])
            if number:
                seconds[name].append(taken)
    # Differences within a round: what disturbs the machine for longer than a step is in both.
    return {
        name: Cost(
            statistics.median(own - floor for own, floor in zip(seconds[name], seconds["floor"], strict=True)),
            saved[name] - saved["floor"],
        )
        for name in METHODS
    }


def power(xs: list[int], ys: list[float]) -> float:
    """The slope between the ends in logarithms."""
    first, last = max(ys[0], 1e-9), max(ys[-1], 1e-9)
    return math.log(last / first) / math.log(xs[-1] / xs[0])


def plot(found: dict[str, dict[int, dict[str, Cost]]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(found), figsize=(4 * len(found), 6), constrained_layout=True)
    for column, (name, points) in enumerate(found.items()):
        for method in METHODS:
            own = [point[method] for point in points.values()]
            axes[0][column].plot(list(points), [1e3 * cost.seconds for cost in own], marker="o", label=method)
            axes[1][column].plot(list(points), [cost.saved / 2**20 for cost in own], marker="o", label=method)
        for row, label in enumerate(("added ms in a step", "added MiB of activations")):
            axes[row][column].set(xlabel=name, ylabel=label, xscale="log", yscale="log")
    axes[0][0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plot", type=Path, default=None)
    chosen = parser.parse_args()
    found = {
        name: {value: costs(Size(**{name: value}), chosen.rounds) for value in values}
        for name, values in SERIES.items()
    }
    rows = []
    for name, points in found.items():
        for method in METHODS:
            own = [point[method] for point in points.values()]
            times, sizes = [cost.seconds for cost in own], [float(cost.saved) for cost in own]
            shown = [", ".join(f"{1e3 * value:.1f}" for value in times), f"{power(list(points), times):.2f}"]
            rows.append((name, method, *shown, f"{power(list(points), sizes):.2f}"))
    columns = ("grows", "method", "added ms", "power", "power of saved bytes")
    show_table(f"beyond the frozen base, {torch.get_num_threads()} threads", columns, rows)
    if chosen.plot:
        plot(found, chosen.plot)
    print(
        json.dumps(
            {n: {x: {m: vars(c) for m, c in p.items()} for x, p in points.items()} for n, points in found.items()}
        )
    )


if __name__ == "__main__":
    main()
