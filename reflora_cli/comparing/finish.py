"""Report what a comparison has found: tables, tests of differences and figures, beside its runs."""

from __future__ import annotations

from reflora_cli.comparing.compare import Comparison
from reflora_cli.comparing.directory import ComparisonDirectory, State
from reflora_cli.console.reporter import Reporter
from reflora_cli.ground.errors import InputError
from reflora_cli.reporting.report import Report, write_report
from reflora_cli.runs.comparison import FINAL


def reported(found: Comparison, reporter: Reporter) -> Report | None:
    """Write the report of a comparison's directory and return it.

    Nothing is written where no compared run has ended well, or where the report's place holds something else, which is
    told; what the runs have found stays as it is.
    """
    if not any(own.state is State.DONE and own.run.folder == FINAL for own in found.results):
        return None
    try:
        return write_report([found.directory], ComparisonDirectory(found.directory).report, None, reporter)
    except InputError as error:
        reporter.note(f"no report was written: {error}")
        return None
