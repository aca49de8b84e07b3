"""Report what a comparison has found: tables, tests of differences and figures, beside its runs."""

from __future__ import annotations

from reflora_cli.comparing.compare import Comparison
from reflora_cli.comparing.directory import ComparisonDirectory, State
from reflora_cli.console.reporter import Reporter
from reflora_cli.ground.errors import InputError
from reflora_cli.reporting.report import write_report
from reflora_cli.runs.comparison import FINAL


def reported(found: Comparison, reporter: Reporter) -> dict[str, str]:
    """Write the report of a comparison's directory, tell its conclusions, and return its place for `--json`.

    Nothing is written where no compared run has ended well. A place that holds something else is named, and what the
    runs have found stays as it is.
    """
    if not any(own.state is State.DONE and own.run.folder == FINAL for own in found.results):
        return {}
    place = ComparisonDirectory(found.directory).report
    try:
        report = write_report([found.directory], place, None, reporter)
    except InputError as error:
        reporter.note(f"no report was written: {error}")
        return {}
    for sentence in report.words:
        reporter.note(sentence)
    reporter.note(f"the report: {report.output}")
    return {"report": str(report.output)}
