"""Lay out the numbers of a report as sections, the same ones for every format."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reflora_cli.reporting.cells import Compared, Group, Row
from reflora_cli.reporting.curves import device_of, tasks_of
from reflora_cli.reporting.document import Section, Table, Text, make_table
from reflora_cli.reporting.edges import Edge
from reflora_cli.reporting.figures import draw_figures
from reflora_cli.reporting.numbers import NONE, interval, memory, number, probability, seconds, spread, unit
from reflora_cli.reporting.published import Beside
from reflora_cli.reporting.records import RunRecord
from reflora_cli.reporting.settings import RATE, Column, Setting, shown, spoken
from reflora_cli.reporting.statistics import ENOUGH, FEWEST, FEWEST_BCA, MOST_FLIPPED
from reflora_cli.reporting.words import conclusions, remarks

HOW = (
    "Scores are means over seeds with the standard deviation (n - 1) and the number of seeds. Settings are compared "
    f"under the same seeds by the two-sided paired t-test, with at least {FEWEST} of them. The differences to the "
    "baseline are one family of tests: their p values are corrected by Holm's method for all rows and columns of the "
    "table. The tests of each column's best row against every other row are a second family, corrected likewise; "
    "a score is bold only if all tests of its column are below 0.05 and the mean over the common seeds is better.",
    "The p of the sign-flip permutation test of the same differences is shown as well, not corrected; this test "
    f"assumes no normal distribution: exact up to {MOST_FLIPPED} pairs, and never below 2 / 2^n for n pairs. Where "
    "all differences are equal, t is not defined, and this test decides.",
    "Intervals of a mean difference are Student's, and the bootstrap's (9,999 draws of seeds; the percentile "
    f"interval below {FEWEST_BCA} pairs, BCa otherwise). Below {ENOUGH} pairs the bootstrap is too narrow: rely on "
    "Student's. One seed has no interval.",
)


def group_sections(group: Group, edges: Sequence[Edge], published: Sequence[Beside], prefix: str) -> list[Section]:
    """Return the sections of one table."""
    title = f"{group.base}{', ' + group.by if group.by else ''}"
    return [
        Section(f"In words: {title}", (*conclusions(group, edges), *remarks(group))),
        Section("Scores", tables=(score_table(group),)),
        *([Section("Differences to the baseline", tables=(difference_table(group),))] if group.compared else []),
        *([Section("Settings", tables=(setting_table(group),))] if has_settings(group) else []),
        *([Section("Published scores", tables=(published_table(group, published),))] if published else []),
        Section("Cost", tables=(cost_table(group),)),
        Section("Figures", figures=draw_figures(group, prefix)),
    ]


def score_table(group: Group) -> Table:
    """Return the main table: a row for each setting, a column for each task."""
    tuned = shown_tuned(group)
    header = ["setting", *map(spoken, tuned)]
    for column in group.columns:
        header.append(f"{group.names[column]}, {unit(column, group.scales[column])}")
        if has_validation(group, column):
            header.append(f"{group.names[column]}, validation")
    header += ["average"] if group.average else []
    rows = [score_row(group, row, tuned) for row in group.rows]
    kinds = {
        "rows that tuning never saw" if column.is_fresh else f"the split {column.split}" for column in group.columns
    }
    by = f", {group.by}" if group.by else ""
    caption = (
        f"Mean ± standard deviation (seeds) on {' and '.join(sorted(kinds))}; base {group.base}{by}. "
        f"{'Bold: shown to be best.' if any_proved(group) else 'No setting is shown to be best.'}"
    )
    return make_table(caption, header, rows)


def score_row(group: Group, row: Row, tuned: Sequence[str]) -> list[str | Text]:
    """Return one line of the main table."""
    cells: list[str | Text] = [row.label, *(tuned_value(row, key) for key in tuned)]
    for column in group.columns:
        cell = row.cells.get(column)
        scale = group.scales[column]
        cells.append(NONE if cell is None else Text(spread(cell, scale), cell.is_proved))
        if has_validation(group, column):
            cells.append(number(cell.validation_mean if cell else None, scale))
    if group.average:
        cells.append(number(group.average[row.label], 100))
    return cells


def any_proved(group: Group) -> bool:
    """Whether any cell is marked."""
    return any(cell.is_proved for row in group.rows for cell in row.cells.values())


def has_validation(group: Group, column: Column) -> bool:
    """Whether validation scores stand beside those of a column."""
    return column.is_fresh and any(row.cells[column].validation for row in group.rows if column in row.cells)


def shown_tuned(group: Group) -> list[str]:
    """Return the keys that have a column of their own: tuned ones, and a learning rate that differs."""
    own = [key for key in group.tuned if key not in group.telling] if group.tuning else []
    return list(dict.fromkeys((*own, *(key for key in (*group.tuned, RATE) if key in group.varied))))


def has_settings(group: Group) -> bool:
    """Whether there is more to say of settings than their names and the columns of the main table do."""
    own = set(shown_tuned(group))
    return any(key not in own for key in group.varied) or (bool(own) and len(tasks_of(group)) > 1)


def tuned_value(row: Row, key: str) -> str:
    """Return what tuning chose for a row, task by task where it differs."""
    values = list(dict.fromkeys(shown(cell.setting.keys.get(key)) for cell in row.cells.values()))
    return " / ".join(values)


def difference_table(group: Group) -> Table:
    """Return the paired differences to the baseline, which has a column of its own where there are several."""
    names = list(dict.fromkeys(one.baseline for one in group.compared))
    rows = [difference_row(group, one, with_baseline=len(names) > 1) for one in group.compared]
    header = (
        "setting", *(["baseline"] if len(names) > 1 else []), "task", "difference", "95% t interval", "95% bootstrap",
        "p", "p corrected", "p sign-flip", "wins/ties/losses", "seeds",
    )  # fmt: skip
    points = "points" if all(group.scales[one.column] == 100 for one in group.compared) else "the units of the scores"
    small = min(one.found.n for one in group.compared)
    tested = sum(one.p is not None for one in group.compared)
    kinds = sorted({one.found.bootstrap_kind for one in group.compared})
    narrow = f"; with {small} seed{'' if small == 1 else 's'} it is too narrow" if small < ENOUGH else ""
    caption = (
        f"Paired differences to {names[0] if len(names) == 1 else 'the baseline'} under the same seeds, in {points}. "
        f"The bootstrap is {' or '.join(kinds)}{narrow}. p is that of the paired t-test, corrected by Holm for "
        f"{tested} comparison{'' if tested == 1 else 's'}."
    )
    return make_table(caption, header, rows, texts=3 if len(names) > 1 else 2)


def difference_row(group: Group, one: Compared, *, with_baseline: bool) -> list[str]:
    """Return one line of the differences."""
    scale, found = group.scales[one.column], one.found
    return [
        one.row,
        *([one.baseline] if with_baseline else []),
        group.names[one.column],
        number(found.mean, scale, signed=True),
        interval(found.t, scale),
        interval(found.bootstrap, scale),
        probability(found.p),
        probability(one.p),
        probability(found.exact),
        f"{found.wins}/{found.ties}/{found.losses}",
        str(found.n),
    ]


def setting_table(group: Group) -> Table:
    """Return the values in which settings differ beside their names."""
    rows = []
    for row in group.rows:
        settings = {id(cell.setting): cell.setting for cell in row.cells.values()}
        rows += [
            [row.label, own.task, *(shown(own.keys.get(key)) for key in group.varied)] for own in settings.values()
        ]
    return make_table(
        "What differs among the settings beside their names.",
        ("setting", "task", *map(spoken, group.varied)),
        rows,
        texts=2,
    )


def published_table(group: Group, published: Sequence[Beside]) -> Table:
    """Return published scores beside ours."""
    rows = [
        [
            own.row,
            group.names[own.column],
            number(own.published.score, 100),
            spread(own.ours, group.scales[own.column]),
            number((own.ours.mean or 0.0) - own.published.score, 100, signed=True),
            f"{own.published.source}: {own.published.statistic}",
            "; ".join(own.differs) or "nothing that is known",
        ]
        for own in published
    ]
    header = ("setting", "task", "published", "ours", "difference", "source", "what differs")
    return make_table("Published scores of the same method on the same base, in points.", header, rows, texts=2)


def cost_table(group: Group) -> Table:
    """Return times, memory and sizes; runs on different devices have lines of their own."""
    rows = []
    for row in group.rows:
        for task in tasks_of(group):
            setting = next((cell.setting for column, cell in row.cells.items() if column.task == task), None)
            if setting is not None:
                rows += cost_rows(row, task, setting)
    header = (
        "setting", "task", "device", "runs", "seconds per step", "seconds per epoch", "seconds", "peak memory, MiB",
        "trained parameters",
    )  # fmt: skip
    caption = (
        "What the runs took: means ± standard deviations over runs on one device. The time of a step is the median of "
        "a run, which a pause does not change. On a CPU, memory is that of the whole process."
    )
    return make_table(caption, header, rows, texts=3)


def cost_rows(row: Row, task: str, setting: Setting) -> list[list[str]]:
    """Return a line for each device."""
    lines = []
    for device in sorted({device_of(run) for run in setting.runs.values()}):
        runs = [run for run in setting.runs.values() if device_of(run) == device]
        memories = [run.cost.memory for run in runs if run.cost.memory]
        trained = {run.cost.trained for run in runs if run.cost.trained}
        lines.append(
            [
                row.label,
                task,
                device,
                str(len(runs)),
                timed([run.cost.seconds_per_step for run in runs]),
                timed([run.cost.seconds_per_epoch for run in runs]),
                timed([run.cost.seconds for run in runs]),
                memory(float(np.mean(memories)) if memories else None),
                " / ".join(f"{count:,}" for count in sorted(trained)) or NONE,
            ]
        )
    return lines


def timed(values: Sequence[float]) -> str:
    """Return mean ± standard deviation of seconds."""
    mean = seconds(float(np.mean(values)))
    return f"{mean} ± {seconds(float(np.std(values, ddof=1)))}" if len(values) > 1 else mean


def run_table(runs: Sequence[RunRecord]) -> Table:
    """Return the runs that the tables are made of."""
    rows = [
        [
            str(run.path),
            run.method,
            run.task,
            str(run.seed),
            ", ".join(
                f"{split} {run.metric} {own[run.metric]:.4g}" for split, own in run.scores.items() if run.metric in own
            )
            or NONE,
        ]
        for run in runs
    ]
    return make_table(
        "The runs that the tables are made of, scores as they are.",
        ("run", "method", "task", "seed", "scores"),
        rows,
        texts=3,
    )
