"""Say in sentences what the data show and what they do not show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reflora_cli.reporting.cells import Compared, Group
from reflora_cli.reporting.curves import device_of
from reflora_cli.reporting.edges import Edge
from reflora_cli.reporting.find import Found
from reflora_cli.reporting.numbers import interval, number, probability, spread, unit, unit_word
from reflora_cli.reporting.records import RunRecord, Stage
from reflora_cli.reporting.settings import Column
from reflora_cli.reporting.statistics import FEWEST, LEVEL

NAMED = 5
"""The most runs that a sentence names."""


def conclusions(group: Group, edges: Sequence[Edge]) -> list[str]:
    """Return a paragraph for each column, and one on choices at the edge of what was tried."""
    paragraphs = [column_words(group, column) for column in group.columns]
    return [*paragraphs, *([edge_words(edges)] if edges else [])]


def edge_words(edges: Sequence[Edge]) -> str:
    """Return a sentence for each choice at an edge, tasks with the same choice together."""
    alike: dict[Edge, list[str]] = {}
    for edge in edges:
        alike.setdefault(replace(edge, task=""), []).append(edge.task)
    return " ".join(edge.sentence(" and ".join(tasks)) for edge, tasks in alike.items())


def column_words(group: Group, column: Column) -> str:
    """Return what one column shows."""
    rows = {row.label: row.cells[column] for row in group.rows if column in row.cells}
    scored = {label: cell for label, cell in rows.items() if cell.n}
    scale = group.scales[column]
    counts = sorted({cell.n for cell in scored.values()})
    kind = "rows that tuning never saw" if column.is_fresh else column.split
    lead = (
        f"{group.names[column]} ({unit(column, scale)}, {kind}): {plural(len(rows), 'setting')}, {seeds_words(counts)}."
    )
    sentences = [lead]
    if len(scored) == 1:
        ((label, cell),) = scored.items()
        sentences.append(f"{label} has {spread(cell, scale)}; there is nothing to compare it with.")
    if len(scored) > 1:
        sentences += compared_words(group, column)
        sentences.append(best_words(group, column))
    lost = {label: cell.diverged for label, cell in rows.items() if cell.diverged}
    if lost:
        said = ", ".join(f"{count} of {label}" for label, count in lost.items())
        sentences.append(f"Runs without a finite score are left out: {said}.")
    return " ".join(sentences)


def seeds_words(counts: Sequence[int]) -> str:
    """Return how many seeds the settings have."""
    if not counts:
        return "none with a finite score"
    if len(counts) == 1:
        return f"{plural(counts[0], 'seed')} each"
    return f"{counts[0]} to {counts[-1]} seeds each"


def plural(count: int, word: str) -> str:
    """Return a number and its word."""
    return f"{count} {word}{'' if count == 1 else 's'}"


def compared_words(group: Group, column: Column) -> list[str]:
    """Return which rows differ from the baseline, which are not distinguishable, and which were not tested."""
    own = [found for found in group.compared if found.column == column]
    if not own:
        return ["No row shares a seed with the baseline." if group.baseline else "No baseline is among the rows."]
    scale, sentences = group.scales[column], []
    for title, found in (
        ("better", [one for one in own if is_shown(one) and is_better(one)]),
        ("worse", [one for one in own if is_shown(one) and not is_better(one)]),
    ):
        for baseline, some in by_baseline(found):
            said = "; ".join(
                f"{one.row} ({number(one.found.mean, scale, signed=True)}{unit_word(scale)}, "
                f"corrected p {probability(one.p)})"
                for one in some
            )
            sentences.append(f"Shown to be {title} than {baseline}: {said}.")
    for baseline, some in by_baseline([one for one in own if one.p is not None and not is_shown(one)]):
        said = "; ".join(f"{one.row} ({interval(one.found.t, scale)}{unit_word(scale)})" for one in some)
        sentences.append(f"Not distinguishable from {baseline}: {said}.")
    for baseline, some in by_baseline([one for one in own if one.p is None]):
        said = "; ".join(one.row for one in some)
        sentences.append(f"Not tested against {baseline}, because fewer than {FEWEST} seeds are common: {said}.")
    return sentences


def by_baseline(found: Sequence[Compared]) -> list[tuple[str, list[Compared]]]:
    """Return comparisons by their baseline."""
    names = dict.fromkeys(one.baseline for one in found)
    return [(name, [one for one in found if one.baseline == name]) for name in names]


def is_shown(one: Compared) -> bool:
    """Whether a difference is shown."""
    return one.p is not None and one.p < LEVEL


def is_better(one: Compared) -> bool:
    """Whether a row's mean is better than its baseline's."""
    return (one.found.mean < 0) == one.column.lower_is_better and one.found.mean != 0


def best_words(group: Group, column: Column) -> str:
    """Return whether one row is shown to be best."""
    own = {row.label: row.cells[column] for row in group.rows if column in row.cells and row.cells[column].n}
    top = next((cell.mean for cell in own.values() if cell.is_best), None)
    best = [label for label, cell in own.items() if cell.mean == top]
    p = group.best_p.get(column)
    if len(best) > 1:
        return f"No setting is shown to be best: {'; '.join(best)} have the same best mean."
    if p is None:
        return f"No setting is shown to be best: {best[0]} has the best mean, and too few seeds are common to test it."
    if p < LEVEL:
        return f"{best[0]} is shown to be best: it differs from every other (largest corrected p {probability(p)})."
    against = f"largest corrected p against another {probability(p)}"
    return f"No setting is shown to be best; {best[0]} has the best mean ({against})."


def remarks(group: Group) -> list[str]:
    """Return what differs among the runs of a table that should be known: machines, versions, repeated runs."""
    found = []
    for what, values in (
        ("device", [device_of(run) for run in group.runs]),
        ("dtype", [run.machine.dtype for run in group.runs]),
        *(
            (f"version of {name}", [run.machine.versions.get(name, "unknown") for run in group.runs])
            for name in ("reflora", "torch", "transformers")
        ),
    ):
        counts = {value: values.count(value) for value in sorted(set(values))}
        if len(counts) > 1:
            said = ", ".join(f"{value} ({plural(count, 'run')})" for value, count in counts.items())
            found.append(f"The runs differ in {what}: {said}.")
            if what == "device":
                found.append("Times on different devices are not compared: each has its own line.")
    repeated = repeated_runs(group)
    if repeated:
        found.append(
            f"{plural(len(repeated), 'run')} repeated a setting and a seed, and the first one of each counts: "
            f"{named(repeated)}."
        )
    unscored = [run for run in group.runs if not run.scores]
    if unscored:
        found.append(f"{plural(len(unscored), 'run')} scored nothing: {named(unscored)}.")
    return found


def repeated_runs(group: Group) -> list[RunRecord]:
    """Return the runs that do not count because another has their setting and seed."""
    settings = {id(cell.setting): cell.setting for row in group.rows for cell in row.cells.values()}
    return [run for setting in settings.values() for run in setting.repeated]


def named(runs: Sequence[RunRecord]) -> str:
    """Return the places of some runs."""
    return listed([str(run.path) for run in runs])


def listed(names: Sequence[str]) -> str:
    """Return names, and how many more there are than a sentence should hold."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def left_out(found: Found) -> list[str]:
    """Return which runs were found and not used."""
    sentences = []
    for stage, what in ((Stage.FINAL, "unfinished or failed"), (Stage.TUNING, "unfinished or failed in tuning")):
        own = [str(run.path) for run in found.unfinished if run.stage is stage]
        if own:
            verb = "is" if len(own) == 1 else "are"
            sentences.append(f"{plural(len(own), 'run')} {verb} {what}, and not used: {listed(own)}.")
    if found.aside:
        names = listed([str(path) for path in found.aside])
        sentences.append(f"{plural(len(found.aside), 'run')} set aside by a comparison, and not used: {names}.")
    for path, message in found.damaged.items():
        sentences.append(f"A run is damaged, and not used: {path} ({message}).")
    return sentences
