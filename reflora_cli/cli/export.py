"""`reflora export`."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from reflora_cli.cli.guard import guarded
from reflora_cli.cli.options import Json, Run


class Format(StrEnum):
    """What `export` writes."""

    PEFT = "peft"
    SAFETENSORS = "safetensors"
    ONNX = "onnx"


def export_command(
    run: Run,
    format: Annotated[Format, typer.Option("--format", help="What to write.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where [default: RUN/export-FORMAT].")] = None,
    as_json: Json = False,
) -> None:
    """Hand a run's adapter, or the model with it merged in, to other tools.

    peft: an adapter for PEFT, vLLM, transformers. safetensors: the merged model. onnx: a classifier for onnxruntime.

    Example: `reflora export runs/cola-dora --format peft --output cola-adapter`
    """
    with guarded():
        from reflora_cli.console import make_reporter, print_json
        from reflora_cli.recipe_file import load_recipe
        from reflora_cli.runs import open_run

        directory = open_run(run)
        recipe = load_recipe(str(directory.recipe), [])
        report = asdict(write(format, recipe, directory, output or run / f"export-{format.value}"))
        make_reporter().facts("exported and verified", {name: str(value) for name, value in report.items()})
        if as_json:
            print_json(report)


def write(format: Format, recipe: Any, run: Any, place: Path) -> Any:
    """Write one format; its report."""
    match format:
        case Format.PEFT:
            from reflora_cli.export.peft import export_peft

            return export_peft(recipe, run, place)
        case Format.SAFETENSORS:
            from reflora_cli.export.card import merged_card
            from reflora_cli.merging.merge import MergeRequest, merge

            return merge(MergeRequest(recipe, run.adapter, place, card=merged_card(recipe, run)))
        case Format.ONNX:
            from reflora_cli.export.onnx import export_onnx

            return export_onnx(recipe, run, place)
