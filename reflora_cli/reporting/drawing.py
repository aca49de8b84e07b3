"""How figures look: colours that the colour-blind tell apart, markers beside them, legends below."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from reflora_cli.reporting.curves import Curve
from reflora_cli.reporting.document import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5B4B9A", "#000000")
"""Okabe and Ito's colours, in an order in which neighbours differ in brightness; a dark violet for their yellow, which
lines on white would not show."""
MARKERS = "osD^vPX*"
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "reflora",
    "legend.frameon": False,
}
WIDTH = 7.5
"""Inches of a figure."""


@dataclass(frozen=True)
class Look:
    """How one row is drawn in all figures."""

    color: str
    marker: str
    dash: Any


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """Return a look for each row; more rows than colours differ by marker and dashes."""
    return {
        label: Look(
            COLOURS[i % len(COLOURS)],
            MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
            DASHES[i // len(COLOURS) % len(DASHES)],
        )
        for i, label in enumerate(dict.fromkeys(labels))
    }


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
    """Return a canvas in both formats; the same numbers make the same bytes."""
    png, svg = io.BytesIO(), io.BytesIO()
    canvas.savefig(png, format="png", dpi=144, facecolor="white")
    canvas.savefig(svg, format="svg", facecolor="white", metadata={"Date": None})
    return Figure(name, caption, png.getvalue(), svg.getvalue())


def styled() -> Any:
    """Return a context in which figures have their style, whatever the user's own is."""
    usual: Any = {**dict(mpl.rcParamsDefault), "backend": mpl.rcParams["backend"], **STYLE}
    return mpl.rc_context(usual)
