"""Figures of single benchmarks as the tables that docs/measured.md shows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tests.benchmarks.measured import Cell, Column, Table, machine

MEBIBYTE = 2**20
WAYS = {
    "frozen floor": "frozen floor",
    "reflora lora": "reflora LoRA",
    "reflora reflora": "reflora RefLoRA, its own computation included",
    "reflora reflora-s": "reflora RefLoRA-S, its own computation included",
    "reflora dora": "reflora DoRA",
    "PEFT lora": "PEFT LoRA",
    "PEFT lora, authors' reflora": "PEFT LoRA with the authors' RefLoRA, module by module",
    "PEFT dora": "PEFT DoRA",
}
MODULES = {
    "deberta": "DeBERTaV3-base, rank 8",
    "llama7b": "Llama-7B, rank 32",
    "square": "160 of 1024 x 1024, rank 64",
}


@dataclass(frozen=True)
class Origin:
    """When figures were measured, and by which command."""

    date: str
    command: str


def table(
    origin: Origin,
    columns: Mapping[str, Column],
    rows: Mapping[str, Mapping[str, Cell]],
    raw: Any,
    threads: int | None = None,
) -> Table:
    """A table of this machine. raw: what the benchmark printed. threads: those of a CPU, if it chose them itself."""
    return Table(columns, rows, machine(threads), origin.date, torch.__version__, origin.command, raw=raw)


def layers_table(figures: Mapping[str, Any], origin: Origin, product_flops: float | None = None) -> Table:
    """Times over the floor, tokens per second and memory of `tests.benchmarks.layers`.

    product_flops: the operations in a second of the device's largest matrix products, if that was measured.
    """
    medians = {name: statistics.median(own) for name, own in figures["seconds"].items()}
    rows: dict[str, Mapping[str, Cell]] = {}
    for name, median in medians.items():
        flops, peak = figures["flops"].get(name), figures["peaks"].get(name)
        rows[WAYS[name]] = {
            "ms": 1e3 * median,
            "ratio": median / medians["frozen floor"],
            "tokens": figures["tokens"] / median,
            "saved_mib": figures["saved"][name] / MEBIBYTE,
            "peak_mib": None if peak is None else peak / MEBIBYTE,
            "share": flops / median / product_flops if flops and product_flops else None,
        }
    columns = {
        "ms": Column("ms", ".1f"),
        "ratio": Column("time over the floor", ".2f"),
        "tokens": Column("tokens/s", ",.0f"),
        "saved_mib": Column("activations", ",.0f MiB"),
        "peak_mib": Column("peak", ",.0f MiB"),
        "share": Column("share of the product peak", ".0%"),
    }
    return table(origin, columns, rows, figures, figures["threads"])


def step_table(figures: Mapping[str, Any], origin: Origin) -> Table:
    """RefLoRA's own computation of `tests.benchmarks.reflora_step`."""
    rows: dict[str, Mapping[str, Cell]] = {}
    for setting, found in figures.items():
        theirs, ours = (1e3 * statistics.median(found[way]["seconds"]) for way in ("one by one", "reflora"))
        rows[MODULES[setting]] = {"theirs_ms": theirs, "ours_ms": ours, "times": theirs / ours}
    columns = {
        "theirs_ms": Column("module by module", ".1f ms"),
        "ours_ms": Column("ours", ".2f ms"),
        "times": Column("times faster", ".1f"),
    }
    return table(origin, columns, rows, figures)


def epochs_table(figures: Mapping[str, Mapping[str, Any]], origin: Origin) -> Table:
    """Seconds of an epoch of `tests.benchmarks.epochs`, a column for each task."""
    ways = next(iter(figures.values()))["seconds"]
    rows: dict[str, Mapping[str, Cell]] = {
        way: {task: statistics.median(own["seconds"][way]) for task, own in figures.items()} for way in ways
    }
    columns = {task: Column(f"{task}, {rows_shown(own['train_rows'])}", ".1f s") for task, own in figures.items()}
    return table(origin, columns, rows, figures)


def rows_shown(count: int | None) -> str:
    """How many of a task's rows an epoch had; None for all."""
    return "all rows" if count is None else f"{count:,} rows"
