"""How the figures of a report look: panels, lines with bands, legends below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from reflora_cli.console.pictures import Look, drawn_in, images
from reflora_cli.reporting.curves import Curve
from reflora_cli.reporting.document import Figure

STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
WIDTH = 7.5
"""Inches of a figure."""


def panels(count: int, height: float, columns: int = 2) -> tuple[Canvas, list[Axes]]:
    """Return a canvas with so many panels, two beside each other."""
    wide = min(count, columns)
    rows = -(-count // wide)
    canvas = Canvas(figsize=(WIDTH, height * rows), layout="constrained")
    axes = list(canvas.subplots(rows, wide, squeeze=False).flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    return canvas, axes[:count]


def draw_curve(axes: Axes, curve: Curve, look: Look, *, points: bool) -> None:
    """Draw a line with its band."""
    marker = look.marker if points or len(curve.x) <= 25 else ""
    axes.plot(
        curve.x,
        curve.mean,
        color=look.color,
        linestyle=look.dash,
        marker=marker,
        markersize=4.5,
        linewidth=1.5,
        label=curve.label,
    )
    if curve.n > 1:
        axes.fill_between(curve.x, curve.low, curve.high, color=look.color, alpha=0.15, linewidth=0)
    for x in curve.marked:
        if x in curve.x:
            axes.plot(
                [x],
                [curve.mean[curve.x.index(x)]],
                marker="o",
                markersize=12,
                markerfacecolor="none",
                markeredgecolor=look.color,
                linestyle="",
            )


def draw_behind(axes: Axes, curve: Curve) -> None:
    """Draw a line without a name in light grey, to compare other lines with."""
    axes.plot(curve.x, curve.mean, color="0.85", linewidth=1.0, zorder=1)


def legend(canvas: Canvas, axes: Sequence[Axes]) -> None:
    """Put one legend for all panels below them, in as many columns as the names have room."""
    found: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        longest = max(map(len, found))
        columns = max(1, min(len(found), 100 // (longest + 9)))
        canvas.legend([*found.values()], [*found], loc="outside lower center", ncols=columns)


def finished(name: str, caption: str, canvas: Canvas) -> Figure:
    """Return a canvas as a figure of the report."""
    found = images(canvas, 144)
    return Figure(name, caption, found["png"], found["svg"])


def styled() -> Any:
    """Return a context in which figures have the style of a report."""
    return drawn_in(STYLE)
