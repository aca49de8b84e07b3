"""Log to trackio, with its files in RUN/trackio."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from typing import Any, final

from reflora_cli.tracking.tracker import Tracked

PROJECT, DIRECTORY = "reflora", "trackio"


@final
class TrackioTracker:
    """A run of trackio, known by the name of the run directory, so that a continued run goes on in it.

    trackio reads the place of its files when it is imported: TRACKIO_DIR where that is set, else the directory of the
    first run that this process tracks.
    """

    def __init__(self, run: Tracked) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(run.path.resolve() / DIRECTORY))
        with unprinted():
            import trackio

            self._library: Any = trackio
            self._run: Any = trackio.init(
                PROJECT, name=run.name, config=dict(run.settings), resume="allow", embed=False, auto_log_cpu=False
            )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, status: int) -> None:
        with unprinted():
            self._library.finish()  # not the run's: trackio would end it again, with a line on stdout, when Python ends


def unprinted() -> contextlib.AbstractContextManager[io.StringIO]:
    """Keep what trackio prints from stdout, which is for a command's JSON."""
    return contextlib.redirect_stdout(io.StringIO())
