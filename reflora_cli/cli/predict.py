"""`reflora predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.opening import opened
from reflora_cli.cli.options import Adapter, AnyModel, BasePlace, NewTokens, TaskName, output_option

if TYPE_CHECKING:
    from reflora_cli.serving.predict import Predictions

SHOWN = 60
"""The most characters of a text in a table on a terminal."""


def predict_command(
    model: AnyModel,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT...|FILE]",
            help="Texts, or a jsonl, json, csv, tsv or parquet file [default: lines of standard input].",
            show_default=False,
        ),
    ] = None,
    adapter: Adapter = None,
    base: BasePlace = None,
    task: TaskName = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", help="Names of the text columns in the file: A or A,B [default: the task's]."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Language models: read texts as they are, without a prompt.")
    ] = False,
    max_new_tokens: NewTokens = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Rows per forward pass [default: the recipe's].")
    ] = None,
    output: Annotated[
        Path | None, output_option("Write FILE.jsonl or FILE.csv; an interrupted command can be repeated to continue.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each row on stdout.")] = False,
) -> None:
    """Ask a trained model: labels with probabilities, values, or written answers.

    A table on a terminal; one JSON object in each line elsewhere.

    Example: `reflora predict runs/cola-dora "The cup stands on the table."`
    """
    with guarded():
        refuse_several_processes("reflora predict")
        reporter = opened(model)
        from reflora_cli.model.chat_template import ALONE
        from reflora_cli.serving.model import ModelRequest
        from reflora_cli.serving.predict import PredictRequest, predict

        named = tuple(name.strip() for name in columns.split(",")) if columns else ()
        source = ModelRequest(model, adapter, base, task, named, max_new_tokens)
        wording = ALONE if raw else None
        found = predict(PredictRequest(source, tuple(inputs or ()), named, wording, batch_size, output), reporter)
        show(found, output, as_json=as_json)


def show(found: Predictions, output: Path | None, *, as_json: bool) -> None:
    """Print the predictions, or where they are."""
    import sys

    from reflora_cli.console.output import make_reporter, print_json, print_lines, show_table

    if output is not None:
        facts = {"output": str(output), "rows": found.rows, "made": found.made, "truncated": found.truncated}
        make_reporter().facts("predicted", {name: str(value) for name, value in facts.items()})
        if as_json:
            print_json(facts)
    elif as_json or not (sys.stdout.isatty() and sys.stderr.isatty()):  # the table goes to stderr
        print_lines(found.records)
    else:
        names = list(dict.fromkeys(name for own in found.records for name in own))
        show_table("predictions", names, [[cell(own.get(name)) for name in names] for own in found.records])


def cell(value: Any) -> str:
    """Return a value as a cell of a table."""
    match value:
        case None:
            return ""
        case float():
            return f"{value:.4f}"
        case dict():
            return ", ".join(f"{name} {cell(one)}" for name, one in value.items())
        case _:
            text = " ".join(str(value).split())
            return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
