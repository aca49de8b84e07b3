"""`reflora export`."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.opening import opened
from reflora_cli.cli.options import Adapter, Json, Places, Run, output_option
from reflora_cli.cli.trained import merge_request, refuse_no_place, trained_recipe
from reflora_cli.export.gguf_types import GgufType

if TYPE_CHECKING:
    from reflora_cli.console.reporter import Reporter


class Format(StrEnum):
    """The formats that `export` writes."""

    PEFT = "peft"
    SAFETENSORS = "safetensors"
    GGUF = "gguf"
    GGUF_ADAPTER = "gguf-adapter"
    ONNX = "onnx"


def export_command(
    run: Run,
    format: Annotated[Format, typer.Option("--format", help="The format to write.")],
    places: Places = None,
    output: Annotated[Path | None, output_option("Where to write [default: RUN/export-FORMAT].")] = None,
    gguf_type: Annotated[
        GgufType, typer.Option("--gguf-type", help="Type of the matrices in a GGUF file.")
    ] = GgufType.F16,
    adapter: Adapter = None,
    as_json: Json = False,
) -> None:
    """Hand a run's adapter, or the model with it merged in, to other tools.

    peft: an adapter for PEFT, vLLM, transformers. safetensors: the merged model. gguf: the same for llama.cpp and
    Ollama; types below q8_0 are made by llama.cpp's llama-quantize (on PATH, or LLAMA_QUANTIZE). gguf-adapter: a LoRA
    for llama.cpp. onnx: a classifier for onnxruntime.

    Example: `reflora export runs/cola-dora --format peft --output cola-adapter`
    """
    with guarded():
        refuse_several_processes("reflora export")
        reporter = opened(run)
        from reflora_cli.console.output import print_json
        from reflora_cli.runs.directory import open_run

        refuse_no_place(adapter, output)
        directory = open_run(run, adapter)
        recipe = trained_recipe(directory, places, reporter)
        place = output or run / f"export-{format.value}"
        report = asdict(write(format, recipe, directory, place, gguf_type, reporter))
        reporter.facts(
            "exported and verified",
            {name: shown(value) for name, value in report.items() if value not in ((), None)},
        )
        if as_json:
            print_json(report)


def shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {own:.3g}" for name, own in value.items())
    return "; ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def write(format: Format, recipe: Any, run: Any, place: Path, gguf_type: GgufType, reporter: Reporter) -> Any:
    """Write one format and return its report."""
    match format:
        case Format.PEFT:
            from reflora_cli.export.peft import export_peft

            return export_peft(recipe, run, place, reporter)
        case Format.SAFETENSORS:
            from reflora_cli.merging.merge import merge

            return merge(merge_request(recipe, run, place), reporter)
        case Format.GGUF:
            from reflora_cli.export.gguf_model import export_gguf

            return export_gguf(recipe, run, place, gguf_type, reporter)
        case Format.GGUF_ADAPTER:
            from reflora_cli.export.gguf_model import export_gguf_adapter

            return export_gguf_adapter(recipe, run, place)
        case Format.ONNX:
            from reflora_cli.export.onnx import export_onnx

            return export_onnx(recipe, run, place, reporter)
