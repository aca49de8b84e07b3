"""Make a report of run directories: read them, compute, and write every format."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflora_cli import __version__
from reflora_cli.console.reporter import Reporter
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import exists, is_directory, is_file
from reflora_cli.methods.settings import ReportFormat
from reflora_cli.reporting.cells import Group, Wanted
from reflora_cli.reporting.data import finite, group_record, run_frame, run_record, score_frame
from reflora_cli.reporting.document import Document, Section
from reflora_cli.reporting.edges import Edge, edges_of
from reflora_cli.reporting.figures import shortened
from reflora_cli.reporting.find import Found, find_runs
from reflora_cli.reporting.latex import latex
from reflora_cli.reporting.markdown import FOLDER, markdown
from reflora_cli.reporting.numbers import spread, unit
from reflora_cli.reporting.page import page
from reflora_cli.reporting.published import Beside, beside
from reflora_cli.reporting.replace import replaced
from reflora_cli.reporting.sections import HOW, group_sections, run_table
from reflora_cli.reporting.tables import make_groups
from reflora_cli.reporting.words import conclusions, left_out, plural, remarks

DATA = "report.json"
"""The file by which a directory is known as a report; it is written with every format."""


@dataclass(frozen=True)
class Part:
    """One table with what belongs to it."""

    group: Group
    edges: tuple[Edge, ...]
    published: tuple[Beside, ...]

    @property
    def words(self) -> list[str]:
        return [*conclusions(self.group, self.edges), *remarks(self.group)]


@dataclass(frozen=True)
class Report:
    """What a report says. output: the directory that has it."""

    output: Path
    parts: tuple[Part, ...]
    found: Found

    @property
    def words(self) -> list[str]:
        """The conclusions, and which runs were left out."""
        return [*(word for part in self.parts for word in part.words), *left_out(self.found)]

    def summary(self) -> list[dict[str, str]]:
        """Return the main table for the console: a mapping for each setting and task, all with the same keys."""
        return [
            {
                **({"base": shortened(f"{group.base} {group.by}".strip(), 20)} if len(self.parts) > 1 else {}),
                "setting": shortened(row.label, 30),
                "task": shortened(group.names[column], 22),
                "metric": shortened(unit(column, group.scales[column]), 16),
                "score": f"{spread(cell, group.scales[column])}{' *' if cell.is_proved else ''}",
            }
            for group in (part.group for part in self.parts)
            for row in group.rows
            for column, cell in row.cells.items()
        ]

    def record(self) -> dict[str, Any]:
        """Return all of the report as JSON has it."""
        record = {
            "reflora": __version__,
            "output": str(self.output),
            "groups": [group_record(part.group, part.edges, part.published, part.words) for part in self.parts],
            "unfinished": [{"run": str(run.path), "stage": run.stage.value} for run in self.found.unfinished],
            "damaged": {str(path): message for path, message in self.found.damaged.items()},
            "runs": [run_record(run) for run in self.found.runs],
        }
        return dict(finite(record))


def write_report(
    places: Sequence[Path],
    output: Path,
    baseline: str | None,
    reporter: Reporter,
    *,
    by: str | None = None,
    formats: Collection[ReportFormat] = tuple(ReportFormat),
) -> Report:
    """Make the report of all runs at or beneath the places, and write it to a directory. An earlier report there is
    replaced.

    baseline: the name of a row or a method that others are compared with; None: the one that a comparison's plan names,
    or plain LoRA. by: a recipe key for whose values there are separate tables.

    Raises InputError where no run is finished, for an unknown baseline or key, and for an output that is no report.
    """
    check_output(output)
    found = find_runs(places)
    reporter.note(
        f"{plural(len(found.final), 'finished run')}, {len(found.tuning)} of tuning, {len(found.unfinished)} unfinished"
    )
    planned = next((plan.baseline for plan in found.plans if plan.baseline), None)
    tuned = tuple(dict.fromkeys(key for plan in found.plans for key in plan.tuned))
    keys = next((plan.baseline_keys for plan in found.plans if plan.baseline_keys and baseline is None), {})
    wanted = Wanted(baseline or planned, baseline is not None, by, tuned, keys)
    groups = make_groups(found.final, found.tuning, wanted)
    parts = tuple(Part(group, tuple(edges_of(group, found)), tuple(beside(group))) for group in groups)
    report = Report(output, parts, found)
    with replaced(output) as folder:
        write_formats(report, folder, formats)
    return report


def check_output(output: Path) -> None:
    """Raises InputError for an output that exists and is no report, which is not replaced."""
    if exists(output) and not is_file(output / DATA) and not (is_directory(output) and not any(output.iterdir())):
        what, found = "the output exists and is no report", f"no {DATA} in it"
        expected, remedy = "a new or empty directory, or an earlier report", "choose another --output, or remove it"
        raise InputError(Problem(what, str(output), found, expected, remedy))


def document_of(report: Report) -> Document:
    """Return the report as sections."""
    runs = report.found.final
    subtitle = f"{plural(len(runs), 'finished run')}, made by reflora {__version__}"
    sections: list[Section] = []
    for place, part in enumerate(report.parts, start=1):
        prefix = f"{place}-" if len(report.parts) > 1 else ""
        sections += group_sections(part.group, part.edges, part.published, prefix)
    missing = left_out(report.found)
    sections += [Section("Runs left out", tuple(missing))] if missing else []
    sections += [Section("Runs", tables=(run_table(runs),)), Section("How it was computed", HOW)]
    return Document("Comparison of runs", subtitle, tuple(sections))


def write_formats(report: Report, folder: Path, formats: Collection[ReportFormat]) -> None:
    """Write the files of a report into a directory."""
    text = json.dumps(report.record(), indent=1, allow_nan=False, ensure_ascii=False)
    (folder / DATA).write_text(text + "\n", encoding="utf-8")
    if ReportFormat.CSV in formats:
        score_frame([part.group for part in report.parts]).to_csv(folder / "report.csv", index=False)
        run_frame(report.found.runs).to_csv(folder / "runs.csv", index=False)
    texts = {ReportFormat.MD: markdown, ReportFormat.LATEX: latex, ReportFormat.HTML: page}
    names = {ReportFormat.MD: "report.md", ReportFormat.LATEX: "report.tex", ReportFormat.HTML: "report.html"}
    if not any(kind in formats for kind in texts):
        return
    document = document_of(report)
    for kind, write in texts.items():
        if kind in formats:
            (folder / names[kind]).write_text(write(document), encoding="utf-8")
    (folder / FOLDER).mkdir()
    for figure in document.figures:
        (folder / FOLDER / f"{figure.name}.png").write_bytes(figure.png)
        (folder / FOLDER / f"{figure.name}.svg").write_bytes(figure.svg)
