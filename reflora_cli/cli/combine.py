"""`reflora combine`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reflora_cli.cli.completion import complete_run
from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.opening import opened
from reflora_cli.cli.options import BasePlace, Json, output_option
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.settings import Combining

if TYPE_CHECKING:
    from reflora_cli.combining.request import CombineReport


def combine_command(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER...",
            help="Adapter directories, reflora's or PEFT's, or runs, all of one base.",
            show_default=False,
            autocompletion=complete_run,
        ),
    ],
    output: Annotated[Path, output_option("Where to write the adapter.")],
    how: Annotated[
        Combining, typer.Option("--how", help="concat: exact sum; svd: truncated sum; others: published rules.")
    ] = (Combining.CONCAT),
    weights: Annotated[
        str | None, typer.Option("--weights", help="One number for each adapter, as 0.7,0.3 [default: 1 each].")
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", min=1, help="Rank of a truncated sum [default: the adapters' largest].")
    ] = None,
    density: Annotated[
        float | None, typer.Option("--density", help="ties, dare: the share of entries to keep [default: 0.5].")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="dare, search: random seed [default: 0].")] = None,
    head: Annotated[
        str | None,
        typer.Option(
            "--head", metavar="ADAPTER", help="Take modules saved whole from this one [default: the weighted mean]."
        ),
    ] = None,
    base: BasePlace = None,
    task: Annotated[
        str | None, typer.Option("--task", metavar="NAME", help="search: task of the rows [default: the first run's].")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="PATH", help="search: data of the rows [default: the task's].")
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help="search: number of training rows [default: 64].")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="search: number of weights to try [default: 40].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make one LoRA adapter of several adapters of the same base, in PEFT's format.

    Example: `reflora combine runs/first runs/second --weights 0.7,0.3 --how svd --rank 8 --output both`
    """
    with guarded():
        refuse_several_processes("reflora combine")
        reporter = opened(", ".join(adapters))
        from reflora_cli.combining.combine import combine
        from reflora_cli.combining.request import FEW, TRIED, CombineRequest, SearchRequest
        from reflora_cli.console.output import print_json

        searched = any(own is not None for own in (task, data, rows, steps))
        request = CombineRequest(
            adapters=tuple(adapters),
            output=output,
            how=how,
            weights=None if weights is None else numbers(weights),
            rank=rank,
            density=density,
            seed=seed,
            head=head,
            base=base,
            search=SearchRequest(task, data, rows or FEW, steps or TRIED) if searched else None,
        )
        report = combine(request, reporter)
        reporter.facts("combined", facts_of(report))
        for note in report.notes:
            reporter.note(note)
        if as_json:
            print_json(asdict(report))


def numbers(text: str) -> tuple[float, ...]:
    """Return the numbers in a text with commas. Raises InputError for anything else."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(Problem("these are no weights", "--weights", text, "numbers, as 0.7,0.3")) from error


def facts_of(report: CombineReport) -> dict[str, str]:
    """Return a report as it is shown."""
    facts = {
        "adapter": report.output,
        "combined by": report.how.value,
        "weights": ", ".join(f"{own:.4g} {name}" for name, own in zip(report.adapters, report.weights, strict=True)),
        "size": f"{report.modules} modules, rank {report.rank} at most, {report.parameters:,} parameters",
    }
    if report.head:
        facts["saved whole"] = report.head
    if report.search is not None:
        facts["search"] = ", ".join(f"{name} {own:.4g}" for name, own in report.search.items())
    if report.lost is not None and report.worst is not None:
        facts["lost by truncation"] = f"{report.lost:.2%} of the change, {report.worst:.2%} in the worst module"
    return facts
