"""Draw `curves.png` and `curves.svg`: loss, main score, learning rate and budget against steps.

What is marked is in `marks.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflora_cli.console.pictures import COLOURS, images, plain
from reflora_cli.training.marks import Mark
from reflora_cli.training.smoothing import ceiling, moving_median, width_for

CONTINUED = "#666666"
PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
"""What lies behind a number, so that it can be read on a line."""
FEW = 30
"""The number of values up to which each has a dot."""
FAINT = 0.35
"""The opacity of losses where a smoothed line lies over them."""


@dataclass(frozen=True)
class Curves:
    """What is drawn beside the log.

    score: the name of the main score. best: the step with the best one. marks: lines through all curves. continued: the
    steps after which the run was continued.
    """

    score: str
    title: str
    best: int | None = None
    marks: Sequence[Mark] = ()
    continued: Sequence[int] = ()


def draw_curves(metrics: Path, curves: Curves) -> dict[str, bytes]:
    """Return a run's `metrics.jsonl` as images by format, png and svg."""
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [record for record in records if record["event"] == "step"]
    scored = [record for record in records if record["event"] == "evaluation" and curves.score in record]
    panels = panels_of(steps, scored)
    figure = Figure(figsize=(8, 1.2 + 2.6 * len(panels)), layout="constrained")
    axes = dict(zip(panels, figure.subplots(len(panels), 1, sharex=True), strict=True))
    draw_loss(axes["loss"], steps, scored)
    if "score" in axes:
        draw_scores(axes["score"], scored, curves.score, curves.best)
    draw_line(axes["rate"], steps, "learning_rate", "learning rate")
    if "budget" in axes:
        draw_line(axes["budget"], steps, "budget", "budget (triplets)")
        axes["budget"].set_ylim(bottom=0)
    draw_marks(figure, list(axes.values()), curves)
    axes[panels[-1]].set_xlabel("optimizer step")
    figure.suptitle(plain(curves.title))
    return images(figure, 120)


def panels_of(steps: Sequence[Mapping[str, Any]], scored: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what there is to draw, from above to below."""
    has_budget = any("budget" in record for record in steps)
    return ["loss", *(["score"] if scored else []), "rate", *(["budget"] if has_budget else [])]


def draw_loss(axes: Any, steps: Sequence[Mapping[str, Any]], scored: Sequence[Mapping[str, Any]]) -> None:
    """Draw the losses of training and of evaluations; of a long run the moving median too, with spikes cut off."""
    at, losses = [record["step"] for record in steps], [record["loss"] for record in steps]
    width = width_for(len(losses))
    smooth = moving_median(losses, width) if width > 1 else {}
    style = {"alpha": FAINT, "linewidth": 0.8} if smooth else {"marker": marker(len(at))}
    axes.plot(at, losses, color=COLOURS[0], label="training", **style)
    if smooth:
        label = f"training, median of {width} logged values"
        axes.plot([at[index] for index in smooth], list(smooth.values()), color=COLOURS[0], label=label)
    evaluated = [record for record in scored if "loss" in record]
    for split, own, color in by_split(evaluated):
        axes.plot([r["step"] for r in own], [r["loss"] for r in own], "o--", color=color, markersize=4, label=split)
    axes.set_ylabel("loss")
    cut_spikes(axes, at, losses, [*smooth.values(), *(record["loss"] for record in evaluated)])
    finish_axes(axes)


def cut_spikes(axes: Any, at: Sequence[int], losses: Sequence[float], shown: Sequence[float]) -> None:
    """Leave out losses so high that nothing else could be read, with a sign at the upper edge for each."""
    top = ceiling(losses, shown) if losses else None
    if top is None:
        return
    low = min([*losses, *shown])
    above = {step: loss for step, loss in zip(at, losses, strict=True) if loss > top}
    axes.set_ylim(low - 0.05 * (top - low), top)
    said = f"higher: {len(above)} values, up to {max(above.values()):.3g}"
    axes.plot(list(above), [top] * len(above), "^", color="#000000", markersize=4, clip_on=False, label=said)


def draw_scores(axes: Any, scored: Sequence[Mapping[str, Any]], score: str, best: int | None) -> None:
    """Draw the main score of every split, with its value at the best step."""
    for split, own, color in by_split(scored):
        axes.plot([r["step"] for r in own], [r[score] for r in own], "o-", color=color, markersize=4, label=split)
        for record in (record for record in own if record["step"] == best):
            axes.annotate(f"{record[score]:.4g}", (best, record[score]), xytext=(-4, 4), color=color, ha="right",
                          textcoords="offset points", fontsize="small", fontweight="bold", bbox=PAPER)  # fmt: skip
    axes.set_ylabel(score)
    axes.margins(y=0.15)
    finish_axes(axes)


def marker(count: int) -> str:
    """Return matplotlib's marker for a line of so many values: few are seen one by one."""
    return "." if count <= FEW else ""


def by_split(scored: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]], str]]:
    """Return the evaluations of every split, with its name for people and its colour."""
    splits = list(dict.fromkeys(record["split"] for record in scored))
    return [
        (
            plain(split),
            [record for record in scored if record["split"] == split],
            COLOURS[1 + index % (len(COLOURS) - 1)],
        )
        for index, split in enumerate(splits)
    ]


def draw_line(axes: Any, steps: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    """Draw a number of the logged steps."""
    own = [record for record in steps if key in record]
    values = [record[key] for record in own]
    axes.plot([record["step"] for record in own], values, color=COLOURS[0], marker=marker(len(own)))
    axes.set_ylabel(label)
    finish_axes(axes)


def finish_axes(axes: Any) -> None:
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def draw_marks(figure: Any, panels: Sequence[Any], curves: Curves) -> None:
    """Draw the marks through all panels, and ticks where the run was continued, with one legend below."""
    handles = []
    for mark in curves.marks:
        style = {"color": mark.color, "linestyle": mark.dashes, "linewidth": 1.2, "label": mark.label}
        handles += [axes.axvline(mark.step, **style) for axes in panels][:1]
    if places := sorted(set(curves.continued)):
        more = f" and {len(places) - 5} more" if len(places) > 5 else ""
        label = f"continued after step {', '.join(map(str, places[:5]))}{more}"
        style = {"color": CONTINUED, "markersize": 14, "markeredgewidth": 2, "clip_on": False, "label": label}
        handles += panels[0].plot(places, [0] * len(places), "|", transform=panels[0].get_xaxis_transform(), **style)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(2, len(handles)), fontsize="small")
