"""Say at once that a command has begun, before it imports libraries for seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reflora_cli.ground.processes import is_first_process

if TYPE_CHECKING:
    from reflora_cli.console.reporter import Reporter


def opened(name: object) -> Reporter:
    """Return the reporter of a command, which has said that it loads something of this name; of several processes only
    the first one speaks.
    """
    from reflora_cli.console.output import make_reporter
    from reflora_cli.console.reporter import SILENT

    reporter = make_reporter() if is_first_process() else SILENT
    reporter.note(f"loading {name}")
    return reporter
