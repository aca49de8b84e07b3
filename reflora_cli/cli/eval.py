"""`reflora eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from reflora_cli.cli.completion import complete_model
from reflora_cli.cli.guard import guarded
from reflora_cli.cli.opening import opened
from reflora_cli.cli.options import Json, Overrides, output_option
from reflora_cli.ground.processes import is_first_process
from reflora_cli.methods.settings import EvalProtocol

MOST_CROSSED = 10
"""The most labels of which a table of confusions is shown; the file of results has it for any number."""


def eval_command(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|RECIPE",
            help="A run directory, a YAML file or a bundled recipe.",
            show_default=False,
            autocompletion=complete_model,
        ),
    ],
    overrides: Overrides = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", help="An adapter directory, reflora's or PEFT's.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option("--task", help="Score on this task instead; repeatable.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Score this split [default: the task's own].")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Score only the first N rows.")] = None,
    protocol: Annotated[
        EvalProtocol | None,
        typer.Option("--protocol", help="Language models: how answers are scored [default: the recipe's]."),
    ] = None,
    output: Annotated[Path | None, output_option("Where to write predictions [default: RUN/evaluations/...].")] = None,
    as_json: Json = False,
) -> None:
    """Score a trained adapter, or any model as it is. Under torchrun the processes share the rows.

    Example: `reflora eval runs/llama3 --task commonsense --protocol llm-adapters`
    """
    with guarded():
        reporter = opened(run)
        from reflora_cli.console.output import print_json, show_table
        from reflora_cli.evaluation.evaluate import evaluate
        from reflora_cli.evaluation.request import Request

        request = Request(run, tuple(overrides or ()), adapter, tuple(task or ()), split, limit, protocol, output)
        results = []
        for found in evaluate(request, reporter):
            results.append(found.results)
            if not is_first_process():
                continue
            rows = [[name, *(cell(line.get(key)) for key in found.columns)] for name, line in found.lines.items()]
            show_table(found.title, [found.first, *found.columns], rows)
            for name, report in found.reports.items():
                show_report(name, report)
            if found.directory:
                reporter.note(f"predictions, row by row: {found.directory}")
        if as_json and is_first_process():
            print_json(results[0] if len(results) == 1 else {"results": results})


def show_report(split: str, report: Any) -> None:
    """Show how well each label is found and, of few labels, which are taken for one another."""
    from reflora_cli.console.output import show_table

    measures = ("precision", "recall", "f1", "rows")
    lines = [[name, *(cell(line[key]) for key in measures)] for name, line in report["classes"].items()]
    show_table(f"{split}, by label", ["label", *measures], lines)
    names = list(report["classes"])
    if "confusion" in report and len(names) <= MOST_CROSSED:
        counts = [[name, *map(str, row)] for name, row in zip(names, report["confusion"], strict=True)]
        show_table(f"{split}, true label by predicted label", ["", *names], counts)


def cell(value: Any) -> str:
    """Return a number, an interval or nothing as text."""
    match value:
        case None:
            return ""
        case [low, high]:
            return f"{low:.4f} to {high:.4f}"
        case float():
            return f"{value:.4f}"
        case _:
            return f"{value:,}"
