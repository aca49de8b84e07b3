"""Draw the figures of the report, in colours that the colour-blind tell apart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from matrix_data import Data
from matrix_plan import ADAMW, FACTORIZATION, LORA, REGRESSION, SGD, main_settings, methods_of, settings_of
from matrix_runs import Setting
from matrix_tables import main_comparisons
from reflora_cli.methods.settings import Optimizer

STYLES = {
    LORA: ("#000000", "-"),
    "reflora": ("#D55E00", "-"),
    "reflora-s": ("#E69F00", "--"),
    "balanced": ("#CC79A7", "-."),
    "scaled-gd": ("#0072B2", "-"),
    "lora-rite": ("#009E73", "-"),
    "altlora": ("#009E73", "-"),
    "lora-pro": ("#56B4E9", "--"),
}
COLOURS = {"win": "#0072B2", "tie": "#999999", "lose": "#D55E00"}
TITLES = {ADAMW: "AdamW", SGD: "gradient descent"}
PICKED = [
    Setting(FACTORIZATION, ADAMW, 8),
    *settings_of(ADAMW, REGRESSION),
    *settings_of(SGD, FACTORIZATION, REGRESSION),
]


def save(figure: pyplot.Figure, path: Path) -> None:
    """Write a figure without the date or the version in it."""
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)


def draw_published(data: Data, path: Path) -> None:
    """Loss against steps as in the paper's figure."""
    figure, axes = pyplot.subplots(figsize=(6.5, 4), layout="constrained")
    for own in data.published:
        colour = STYLES[own["variant"]][0]
        for rate, curve, line in zip(own["rates"], own["curves"], ("-", "--"), strict=True):
            axes.plot(curve, color=colour, linestyle=line, label=f"{own['variant']}, rate {rate:g}")
    axes.set(xlabel="step of gradient descent", ylabel="loss, median of 5 seeds", yscale="log", ylim=(1e-6, 1e6))
    axes.set_title("Factorization of a 100 x 100 matrix of rank 5, B near 0")
    axes.legend(fontsize=8)
    save(figure, path)


def draw_rates(data: Data, path: Path) -> None:
    """Final loss against the learning rate."""
    figure, grid = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained", sharey=True)
    for axes, setting in zip(grid.flat, PICKED, strict=True):
        for name, (colour, line) in STYLES.items():
            if found := data.results.get((setting.key, name)):
                axes.plot(found.rates, found.by_rate, line, color=colour, marker=".", label=name)
        title_and_legend(axes, setting)
        axes.set(xlabel="learning rate", xscale="log", ylim=(-12.5, 1.5))
    for axes in grid[:, 0]:
        axes.set_ylabel("log10 of last / first loss, 3 tuning seeds")
    save(figure, path)


def draw_curves(data: Data, path: Path) -> None:
    """Loss against steps at each method's best rate."""
    figure, grid = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained", sharey=True)
    for axes, setting in zip(grid.flat, PICKED, strict=True):
        for name, (colour, line) in STYLES.items():
            if found := data.results.get((setting.key, name)):
                axes.plot(found.curve, line, color=colour, label=name)
        title_and_legend(axes, setting)
        axes.set(xlabel="step", ylim=(-12.5, 1.5))
    for axes in grid[:, 0]:
        axes.set_ylabel("log10 of loss / first loss, median of fresh seeds")
    save(figure, path)


def title_and_legend(axes: Axes, setting: Setting) -> None:
    """Say which setting it is, and which line is which."""
    axes.set_title(setting.key, fontsize=10)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)


def draw_differences(data: Data, path: Path) -> None:
    """Differences to LoRA with intervals, method by method, on all main settings."""
    figure, grid = pyplot.subplots(1, 2, figsize=(11, 6), layout="constrained")
    for axes, optimizer in zip(grid, (ADAMW, SGD), strict=True):
        names = [*dict.fromkeys(name for own in main_settings(optimizer) for name in methods_of(own) if name != LORA)]
        differences(axes, data, optimizer, names)
    figure.legend(*verdict_legend(grid[0]), loc="outside lower center", ncols=4, fontsize=9)
    save(figure, path)


def differences(axes: Axes, data: Data, optimizer: Optimizer, names: Sequence[str]) -> None:
    """Draw a point with its interval for each setting, and the method's median as a bar."""
    found = main_comparisons(data, optimizer)
    settings = main_settings(optimizer)
    for row, name in enumerate(names):
        own = [found[setting.key, name] for setting in settings if (setting.key, name) in found]
        for place, one in enumerate(own):
            y = row + 0.09 * (place - (len(own) - 1) / 2)
            axes.plot([one.low, one.high], [y, y], color=COLOURS[one.verdict], linewidth=1.5)
            axes.plot(one.difference, y, "o", color=COLOURS[one.verdict], markersize=4)
        if own:
            axes.plot(statistics.median(one.difference for one in own), row, "|", color="black", markersize=22)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("symlog", linthresh=1)
    ticks = (-10, -3, -1, -0.5, 0, 0.5, 1, 3, 10)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="log10 of the method's loss / LoRA's: left is better", title=TITLES[optimizer], xlim=(-13, 13))


def verdict_legend(axes: Axes) -> tuple[list[object], list[str]]:
    """Return handles and labels of the three colours and the bar."""
    lines: list[object] = [axes.plot([], [], "o-", color=colour)[0] for colour in COLOURS.values()]
    return [*lines, axes.plot([], [], "|", color="black")[0]], [*COLOURS, "median of settings"]


FIGURES = {
    "matrices-published.png": draw_published,
    "matrices-rates.png": draw_rates,
    "matrices-curves.png": draw_curves,
    "matrices-differences.png": draw_differences,
}
