"""`reflora report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reflora_cli.cli.completion import complete_run
from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.opening import opened
from reflora_cli.cli.options import Json, output_option
from reflora_cli.methods.settings import ReportFormat

if TYPE_CHECKING:
    from reflora_cli.console.reporter import Reporter
    from reflora_cli.reporting.report import Report


def report_command(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR|RUN...",
            help="Runs, directories of runs, or comparisons, in any mixture.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    output: Annotated[
        Path | None,
        output_option("Where to write [default: DIR/report, or ./report for several]."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", metavar="NAME", help="Compare with this row or method [default: the plan's, or lora]."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="KEY", help="Make a table for each value of a recipe key, as method.rank."),
    ] = None,
    wanted: Annotated[
        ReportFormat, typer.Option("--format", help="Write only this format, and the JSON.")
    ] = ReportFormat.ALL,
    as_json: Json = False,
) -> None:
    """Compare finished runs: tables, tests of differences over seeds, figures.

    Example: `reflora report runs --baseline lora`
    """
    with guarded():
        refuse_several_processes("reflora report")
        reporter = opened(", ".join(map(str, places)))
        from reflora_cli.console.output import print_json
        from reflora_cli.reporting.report import write_report

        formats = tuple(ReportFormat) if wanted is ReportFormat.ALL else (wanted,)
        place = output or (places[0] / "report" if len(places) == 1 else Path("report"))
        report = write_report(places, place, baseline, reporter, by=by, formats=formats)
        show_report(report, reporter)
        if as_json:
            print_json(report.record())


def show_report(report: Report, reporter: Reporter) -> None:
    """Show the scores of a report as a table, what they show in words, and where the report is."""
    from reflora_cli.console.output import show_table

    if rows := report.summary():  # runs that were never scored have none
        show_table("mean ± standard deviation (seeds)", list(rows[0]), [list(row.values()) for row in rows])
    for sentence in report.words:
        reporter.note(sentence)
    reporter.note(f"the report: {report.output}")
