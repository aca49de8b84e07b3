"""`reflora export`."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from reflora_cli.cli.guard import guarded
from reflora_cli.cli.options import Json, Run


class Format(StrEnum):
    """What `export` writes: an adapter for PEFT, or the merged model (what `merge` writes)."""

    PEFT = "peft"
    SAFETENSORS = "safetensors"


def export_command(
    run: Run,
    format: Annotated[Format, typer.Option("--format", help="What to write.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where [default: RUN/export-FORMAT].")] = None,
    as_json: Json = False,
) -> None:
    """Hand a run's adapter to other tools.

    Example: `reflora export runs/cola-dora --format peft --output cola-adapter`
    """
    with guarded():
        from reflora_cli.console import make_reporter, print_json
        from reflora_cli.recipe_file import load_recipe
        from reflora_cli.runs import open_run

        directory = open_run(run)
        recipe = load_recipe(str(directory.recipe), [])
        place = output or run / f"export-{format.value}"
        match format:
            case Format.PEFT:
                from reflora_cli.export.peft import export_peft

                results = json.loads(directory.results.read_text()) if directory.results.is_file() else None
                report = asdict(export_peft(recipe, directory.adapter, place, results))
            case Format.SAFETENSORS:
                from reflora_cli.merge import merge

                report = asdict(merge(recipe, directory.adapter, place, None))
        make_reporter().facts("exported and verified", {name: str(value) for name, value in report.items()})
        if as_json:
            print_json(report)
