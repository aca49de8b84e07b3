"""Draw curves in panels: many curves are divided among several panels, so that each can be told from the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from reflora_cli.console.pictures import Look
from reflora_cli.reporting.curves import Curve
from reflora_cli.reporting.drawing import draw_behind, draw_curve, legend, panels

Curves = Mapping[str, Sequence[Curve]]
"""Curves by what they show: a task, or a task and what stands on the x axis, as in `task | step`."""
MOST_CURVES = 8
"""The most curves that are drawn in colours in one panel."""


@dataclass(frozen=True)
class Labels:
    """The labels of axes. x: empty if the names of panels have it. y: by what the curves show."""

    x: str
    y: dict[str, str]


@dataclass(frozen=True)
class Panel:
    """One panel. shown: what the curves show. part: which part of them is in this panel; empty if all are.

    curves: those in colours. behind: all curves that show the same, which a part has in grey.
    """

    shown: str
    part: str
    curves: Sequence[Curve]
    behind: Sequence[Curve] = ()


def panels_of(found: Curves, baseline: str | None) -> Iterator[Panel]:
    """Yield the panels. baseline: the label of the curve that every part of a division has."""
    for shown, curves in found.items():
        if len(curves) <= MOST_CURVES:
            if curves:
                yield Panel(shown, "", curves)
            continue
        always = [curve for curve in curves if curve.label == baseline]
        others = [curve for curve in curves if curve.label != baseline]
        count = -(-len(others) // (MOST_CURVES - len(always)))
        size = -(-len(others) // count)
        for number in range(count):
            own = others[number * size : (number + 1) * size]
            yield Panel(shown, f" ({number + 1} of {count})", [*always, *own], curves)


def draw_panels(
    found: Curves, look: Mapping[str, Look], labels: Labels, baseline: str | None, *, points: bool = False
) -> tuple[Canvas, list[tuple[Axes, Panel]]] | None:
    """Draw curves and return the canvas with its panels; None without any curve. points: mark the points of all curves.

    One legend below names the curves of all panels; panels that have parts of the curves have legends of their own.
    """
    drawn = list(panels_of(found, baseline))
    if not drawn:
        return None
    canvas, axes = panels(len(drawn), 3.0)
    pairs = list(zip(axes, drawn, strict=True))
    for one, panel in pairs:
        for curve in panel.behind:
            draw_behind(one, curve)
        for curve in panel.curves:
            draw_curve(one, curve, look[curve.label], points=points)
        label_axes(one, panel, labels)
    if any(panel.part for panel in drawn):
        match_parts(pairs)
    else:
        legend(canvas, axes)
    return canvas, pairs


def part_words(pairs: Sequence[tuple[Axes, Panel]]) -> str:
    """Return the sentence of a caption that explains panels with parts of the curves; empty if there are none."""
    return " Grey lines are the curves of the other panels." if any(panel.part for _, panel in pairs) else ""


def match_parts(pairs: Sequence[tuple[Axes, Panel]]) -> None:
    """Give panels legends of their own, and the parts of the same curves the same range."""
    ranges: dict[str, list[float]] = {}
    for one, panel in pairs:
        ranges.setdefault(panel.shown, []).extend(one.get_ylim())
    for one, panel in pairs:
        one.set_ylim(min(ranges[panel.shown]), max(ranges[panel.shown]))
        one.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)


def label_axes(axes: Axes, panel: Panel, labels: Labels) -> None:
    """Write a panel's title and what stands on its axes."""
    task, _, what = panel.shown.partition(" | ")
    axes.set_title(f"{task}{panel.part}", fontsize=9)
    axes.set_xlabel(labels.x or what)
    axes.set_ylabel(labels.y[panel.shown])
    if (labels.x or what) == "step":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
