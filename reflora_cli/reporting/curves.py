"""Gather what the figures draw: losses and scores against steps and seconds, scores against learning rates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from reflora_cli.reporting.cells import SHARES, Group, Row
from reflora_cli.reporting.edges import rate_free_label
from reflora_cli.reporting.records import RunRecord
from reflora_cli.reporting.settings import RATE, Setting

SMOOTHED_FROM = 40
"""Logged steps from which on a loss is smoothed."""
POINTS = 20
"""A smoothed loss averages over about one part in so many of its points."""


@dataclass(frozen=True)
class Curve:
    """One line with its band. x, mean, low, high: of equal length. n: how many runs. marked: the x that was chosen."""

    label: str
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int
    marked: tuple[float, ...] = ()


def settings_in(group: Group, task: str) -> list[tuple[Row, Setting]]:
    """Return the rows that have runs on a task, each with its setting there."""
    found = []
    for row in group.rows:
        own = next((cell.setting for column, cell in row.cells.items() if column.task == task), None)
        if own is not None:
            found.append((row, own))
    return found


def tasks_of(group: Group) -> list[str]:
    """Return the tasks of a group in the order of its columns."""
    return list(dict.fromkeys(column.task for column in group.columns))


def span_of(runs: Iterable[RunRecord]) -> int:
    """Return over how many logged steps a loss is smoothed: 1 for none."""
    longest = max((len(run.course.losses) for run in runs), default=0)
    return max(2, longest // POINTS) if longest >= SMOOTHED_FROM else 1


def losses_by_step(label: str, runs: Sequence[RunRecord], span: int) -> Curve | None:
    """Return the training loss against steps: the mean over seeds with its least and greatest."""
    return banded(
        label,
        [smooth(pd.Series({step: loss for step, _, loss in run.course.losses}, dtype=float), span) for run in runs],
    )


def losses_by_second(label: str, runs: Sequence[RunRecord], span: int) -> Curve | None:
    """Return the training loss against seconds of training: at each step, the mean loss at the mean time."""
    by_step = losses_by_step(label, runs, span)
    if by_step is None:
        return None
    times = pd.DataFrame([{step: second for step, second, _ in run.course.losses} for run in runs]).mean()
    x = tuple(float(times[step]) for step in by_step.x)
    return Curve(label, x, by_step.mean, by_step.low, by_step.high, by_step.n)


def scores_by_step(label: str, runs: Sequence[RunRecord]) -> Curve | None:
    """Return the main score of validation against steps: the mean over seeds with its least and greatest."""
    series = []
    for run in runs:
        split = next(iter(run.validation), None)
        scale = 100.0 if run.validation_metric in SHARES else 1.0
        found = {
            step: scores[run.validation_metric] * scale
            for step, own, scores in run.course.evaluations
            if own == split and run.validation_metric in scores
        }
        series.append(pd.Series(found, dtype=float))
    return banded(label, series)


def smooth(series: pd.Series, span: int) -> pd.Series:
    """Return an exponentially weighted mean."""
    return series if span == 1 else series.ewm(span=span).mean()


def banded(label: str, series: Sequence[pd.Series]) -> Curve | None:
    """Return the mean of series with their least and greatest, where all that have values have one."""
    frame = pd.DataFrame([own for own in series if len(own)]).dropna(axis="columns").sort_index(axis="columns")
    if frame.empty:
        return None
    return Curve(
        label,
        tuple(map(float, frame.columns)),
        tuple(map(float, frame.mean())),
        tuple(map(float, frame.min())),
        tuple(map(float, frame.max())),
        len(frame),
    )


def rate_curves(group: Group, task: str) -> list[Curve]:
    """Return for each row the main score of validation against the learning rate, of tuning and final runs; of rows
    with at least two rates.
    """
    final = {id(run) for run in group.runs}
    points = [
        {
            "label": rate_free_label(run, group),
            "rate": float(run.keys[RATE]),
            "score": next(iter(run.validation.values()))[run.validation_metric]
            * (100 if run.validation_metric in SHARES else 1),
            "chosen": bool(group.tuning) and id(run) in final,
        }
        for run in (*group.tuning, *group.runs)
        if run.task == task and run.is_finite and run.validation_metric in next(iter(run.validation.values()), {})
    ]
    if not points:
        return []
    curves = []
    for label, own in pd.DataFrame(points).groupby("label", sort=False):
        found = own.groupby("rate")["score"].agg(["mean", "min", "max"])
        if len(found) > 1:
            chosen = tuple(sorted(set(own.loc[own["chosen"], "rate"])))
            low, high = tuple(map(float, found["min"])), tuple(map(float, found["max"]))
            mean, rates = tuple(map(float, found["mean"])), tuple(map(float, found.index))
            curves.append(Curve(str(label), rates, mean, low, high, len(own), chosen))
    order = rate_free_labels(group)
    return sorted(curves, key=lambda curve: order.index(curve.label) if curve.label in order else len(order))


def rate_free_labels(group: Group) -> list[str]:
    """Return the names of the rows without their learning rates, each once and in their order."""
    firsts = (next(iter(cell.setting.runs.values())) for row in group.rows for cell in row.cells.values())
    return list(dict.fromkeys(rate_free_label(run, group) for run in firsts))


def main_device(runs: Sequence[RunRecord]) -> str:
    """Return the device with the most runs, whose times are drawn: times on others are not compared with them."""
    counts = Counter(device_of(run) for run in runs)
    return max(sorted(counts), key=lambda device: counts[device])


def device_of(run: RunRecord) -> str:
    """Return the device with what else decides its speed: threads and processes."""
    count, is_cpu = run.machine.threads, run.machine.device.startswith("cpu")
    threads = f", {count} thread{'' if count == 1 else 's'}" if count and is_cpu else ""
    processes = f", {run.machine.processes} processes" if run.machine.processes > 1 else ""
    return f"{run.machine.device}{threads}{processes}"
