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
AnyModel = Annotated[
    str,
    typer.Argument(
        metavar="RUN|MODEL_DIR|RECIPE",
        help="A run directory, a merged model's directory, or a recipe with --adapter.",
        show_default=False,
    ),
]
Adapter = Annotated[Path | None, typer.Option("--adapter", help="An adapter directory, ours or PEFT's.")]
BasePlace = Annotated[
    str | None, typer.Option("--base", metavar="NAME", help="Where the base model is now [default: where it was].")
]
TaskName = Annotated[
    str | None, typer.Option("--task", metavar="NAME", help="Ask as in this task [default: the recipe's].")
]
NewTokens = Annotated[
    int | None,
    typer.Option("--max-new-tokens", min=1, help="Language models: tokens of an answer [default: the recipe's]."),
]
