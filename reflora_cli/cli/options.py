"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Override recipe fields, for example method.rank=16.", show_default=False
    ),
]
Places = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Where the base or the data is now: model.name=PATH, task.data=PATH.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run directory written by `reflora train`.", show_default=False)
]
