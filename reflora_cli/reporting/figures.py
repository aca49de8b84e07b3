"""Draw the figures of one table: scores with intervals, learning rates, losses, evaluations, cost beside quality."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from reflora_cli.console.pictures import Look, looks
from reflora_cli.reporting.cells import SHARES, Group
from reflora_cli.reporting.curve_panels import Labels, draw_panels, part_words
from reflora_cli.reporting.curves import (
    Curve,
    device_of,
    losses_by_second,
    losses_by_step,
    main_device,
    rate_curves,
    rate_free_labels,
    scores_by_step,
    settings_in,
    span_of,
    tasks_of,
)
from reflora_cli.reporting.document import Figure
from reflora_cli.reporting.drawing import finished, legend, panels, styled
from reflora_cli.reporting.numbers import unit
from reflora_cli.reporting.records import RunRecord
from reflora_cli.reporting.settings import Column

MOST_TICKS = 7
"""The most learning rates of which each has its tick."""


def draw_figures(group: Group, prefix: str) -> tuple[Figure, ...]:
    """Return the figures of a group for which there is something to draw. prefix: the beginning of their names."""
    drawers = (draw_scores, draw_rates, draw_losses, draw_evaluations, draw_cost)
    with styled():
        found = [drawer(group, prefix) for drawer in drawers]
    return tuple(figure for figure in found if figure is not None)


def draw_scores(group: Group, prefix: str) -> Figure | None:
    """Draw each run's score as a point, and the mean with its standard deviation."""
    if not any(cell.n for row in group.rows for cell in row.cells.values()):
        return None
    look = row_looks(group)
    canvas, axes = panels(len(group.columns), 0.9 + 0.32 * len(group.rows), columns=1 if len(group.columns) == 1 else 2)
    for one, column in zip(axes, group.columns, strict=True):
        draw_points(one, group, column, look)
    for position, one in enumerate(axes):
        if position % 2 and len(axes) > 1:
            one.set_yticklabels([])
    caption = (
        "Scores of single runs (points), and their mean with one standard deviation (line). Higher is better, "
        "except for losses and errors."
    )
    return finished(f"{prefix}scores", caption, canvas)


def draw_points(axes: Axes, group: Group, column: Column, look: dict[str, Look]) -> None:
    """Draw the scores of one column, a line for each row."""
    for place, row in enumerate(group.rows):
        cell = row.cells.get(column)
        if cell is None or cell.mean is None:
            continue
        own, alpha = look[row.label], 0.45 if cell.n > 1 else 1.0
        axes.plot(
            [*cell.scores.values()],
            [place] * cell.n,
            own.marker,
            color=own.color,
            alpha=alpha,
            markersize=5,
            markeredgewidth=0,
        )
        if cell.sd is not None:
            mark = {"color": own.color, "marker": "|", "markersize": 14, "markeredgewidth": 2, "capsize": 3}
            axes.errorbar([cell.mean], [place], xerr=[cell.sd], **mark)  # type: ignore[arg-type]
    axes.set_yticks(range(len(group.rows)), [shortened(row.label) for row in group.rows])
    axes.set_ylim(len(group.rows) - 0.4, -0.6)
    axes.set_title(group.names[column], fontsize=9)
    axes.set_xlabel(unit(column, group.scales[column]))


def shortened(label: str, most: int = 38) -> str:
    """Return a label that leaves room for what is drawn."""
    return label if len(label) <= most else label[: most - 1] + "…"


def draw_rates(group: Group, prefix: str) -> Figure | None:
    """Draw scores against learning rates."""
    found = {task: rate_curves(group, task) for task in tasks_of(group)}
    caption = (
        "Main score of validation against the learning rate, of tuning and final runs: mean over runs, band from the "
        "least to the greatest. A ring marks the rate that tuning chose."
    )
    look = looks([*rate_free_labels(group), *(curve.label for curves in found.values() for curve in curves)])
    labels = Labels("learning rate", {task: score_unit(group, task) for task in found})
    drawn = draw_panels(found, look, labels, group.baseline, points=True)
    if drawn is None:
        return None
    canvas, axes = drawn
    for one, panel in axes:
        rates = sorted({x for curve in found[panel.shown] for x in curve.x})
        one.set_xscale("log")
        if len(rates) <= MOST_TICKS:
            one.set_xticks(rates, [f"{rate:g}" for rate in rates])
            one.set_xticks([], minor=True)
    return finished(f"{prefix}rates", caption + part_words(axes), canvas)


def draw_losses(group: Group, prefix: str) -> Figure | None:
    """Draw training losses against steps and, of runs on one device, against seconds."""
    device = main_device(group.runs)
    span = span_of(group.runs)
    found: dict[str, list[Curve]] = {}
    for task in tasks_of(group):
        steps = curves_of(group, task, lambda label, runs: losses_by_step(label, runs, span))
        seconds = curves_of(group, task, lambda label, runs: losses_by_second(label, runs, span), device)
        if steps:
            found[f"{task} | step"] = steps
        if seconds:
            found[f"{task} | seconds"] = seconds
    smoothed = f" Smoothed by an exponentially weighted mean over about {span} logged steps." if span > 1 else ""
    caption = (
        "Training loss against steps and against seconds of training: mean over seeds, band from the least to the "
        f"greatest.{smoothed} Seconds are those on {device}."
    )
    labels = Labels("", dict.fromkeys(found, "training loss"))
    drawn = draw_panels(found, row_looks(group), labels, group.baseline)
    return finished(f"{prefix}losses", caption + part_words(drawn[1]), drawn[0]) if drawn else None


def draw_evaluations(group: Group, prefix: str) -> Figure | None:
    """Draw the main score of validation against steps."""
    found = {task: curves for task in tasks_of(group) if (curves := curves_of(group, task, scores_by_step))}
    caption = "Main score of validation against steps: mean over seeds, band from the least to the greatest."
    labels = Labels("step", {task: score_unit(group, task) for task in found})
    drawn = draw_panels(found, row_looks(group), labels, group.baseline)
    return finished(f"{prefix}evaluations", caption + part_words(drawn[1]), drawn[0]) if drawn else None


def curves_of(
    group: Group, task: str, make: Callable[[str, Sequence[RunRecord]], Curve | None], device: str | None = None
) -> list[Curve]:
    """Return a curve for each row that has one. device: leave out runs on others."""
    curves = []
    for row, setting in settings_in(group, task):
        runs = [run for run in setting.runs.values() if device is None or device_of(run) == device]
        if runs and (curve := make(row.label, runs)) is not None:
            curves.append(curve)
    return curves


def score_unit(group: Group, task: str) -> str:
    """Return the name of the main metric of validation on a task, with its unit."""
    metric = next(run.validation_metric for run in group.runs if run.task == task)
    return f"{metric.replace('_', ' ')} × 100" if metric in SHARES else metric.replace("_", " ")


def row_looks(group: Group) -> dict[str, Look]:
    """Return the look of each row, the same in all figures of a group."""
    return looks([row.label for row in group.rows])


def draw_cost(group: Group, prefix: str) -> Figure | None:
    """Draw the score beside the time of a step and beside the peak of memory, of runs on one device."""
    device = main_device(group.runs)
    columns = [column for column in group.columns if any(row.cells.get(column) for row in group.rows)]
    if not columns or len(group.rows) < 2:
        return None
    look = row_looks(group)
    firsts = list({column.task: column for column in reversed(columns)}.values())[::-1]
    canvas, axes = panels(2 * len(firsts), 3.0)
    for place, column in enumerate(firsts):
        for row in group.rows:
            draw_cost_point(axes[2 * place : 2 * place + 2], group, row.label, column, device, look[row.label])
        for one, what in zip(axes[2 * place :], ("seconds per step", "peak memory, MiB"), strict=False):
            one.set_xlabel(what)
            one.set_ylabel(unit(column, group.scales[column]))
            one.set_title(group.names[column], fontsize=9)
    legend(canvas, axes)
    caption = (
        f"Score beside the time of a step and the peak of memory: means and standard deviations of runs on {device}."
    )
    return finished(f"{prefix}cost", caption, canvas)


def draw_cost_point(axes: Sequence[Axes], group: Group, label: str, column: Column, device: str, look: Look) -> None:
    """Draw one row into the panels of time and memory."""
    import numpy as np

    cell = group.cell(label, column)
    if cell is None or cell.mean is None:
        return
    runs = [run for seed, run in cell.setting.runs.items() if seed in cell.scores and device_of(run) == device]
    times = [run.cost.seconds_per_step for run in runs]
    memories = [run.cost.memory / 2**20 for run in runs if run.cost.memory]
    for one, values in zip(axes, (times, memories), strict=True):
        if not values:
            continue
        scores = [cell.scores[run.seed] for run in runs]
        across, along = (float(np.std(own, ddof=1)) if len(own) > 1 else None for own in (values, scores))
        one.errorbar(
            float(np.mean(values)),
            float(np.mean(scores)),
            xerr=across,
            yerr=along,
            color=look.color,
            marker=look.marker,
            linestyle="",
            markersize=7,
            capsize=2,
            label=label,
        )
