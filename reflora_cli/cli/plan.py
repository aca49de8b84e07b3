"""`reflora plan`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.list import refuse_no_recipe
from reflora_cli.cli.opening import opened
from reflora_cli.cli.options import Json, LearningRate, Overrides, RecipeName, Seed, output_option, with_short_forms
from reflora_cli.ground.processes import number_of_processes

if TYPE_CHECKING:
    from reflora_cli.console.reporter import Reporter
    from reflora_cli.planning.plan import Plan
    from reflora_cli.recipe.sections import Recipe


def plan_command(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    rate: LearningRate = None,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", metavar="NAME", help='A GPU such as H100, or "12 GB" [default: this machine].'),
    ] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Number of processes, each with a device.")] = 1,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run a few steps here, and estimate the time of the whole run.")
    ] = False,
    output: Annotated[Path | None, output_option("The run directory whose disk space is checked.")] = None,
    as_json: Json = False,
) -> None:
    """Say what a run would train, read, take and write, from the base's config alone; nothing is trained or written.

    Example: `reflora plan quickstart --gpu "12 GB"`
    """
    with guarded():
        refuse_several_processes("reflora plan")
        if recipe is None:
            refuse_no_recipe("reflora plan", "quickstart")
        given = with_short_forms(overrides, seed, rate)
        reporter = opened(recipe)
        from reflora_cli.planning.devices import named_gpu

        named = named_gpu(gpu) if gpu is not None else None
        from reflora_cli.console.output import print_json
        from reflora_cli.planning.advice import advise
        from reflora_cli.planning.devices import own_device
        from reflora_cli.planning.known import Known
        from reflora_cli.planning.plan import Request, planned
        from reflora_cli.recipe.files import load_recipe

        loaded = load_recipe(recipe, given)
        request = Request(named or own_device(), processes, output)
        known = Known()
        made = planned(loaded, request, known)
        show_plan(made, reporter)
        record = made.record()
        if not made.memory.fits:
            record["advice"] = advise(recipe, given, request, made, known, reporter)
        if measure:
            from reflora_cli.planning.measure import measured

            record["measured"] = measured(loaded, made, reporter)
        if as_json:
            print_json(record)


def show_estimates(recipe: Recipe, output: Path | None, reporter: Reporter) -> dict[str, Any]:
    """Show what a run on this machine takes, for a dry run, and return it for `--json`."""
    from reflora_cli.planning.devices import own_device
    from reflora_cli.planning.plan import Request, planned

    made = planned(recipe, Request(own_device(), number_of_processes(), output))
    show_sizes(made, reporter)
    return made.record()


def show_plan(plan: Plan, reporter: Reporter) -> None:
    """Show a plan's tables."""
    from reflora_cli.planning import shown

    show_lines("the run", shown.facts(plan), reporter)
    show_sizes(plan, reporter)


def show_lines(title: str, rows: Mapping[str, str], reporter: Reporter) -> None:
    """Show facts under a title."""
    from reflora_cli.planning import shown

    reporter.note(title)
    for line in shown.wrapped(rows):
        reporter.note(line)


def show_sizes(plan: Plan, reporter: Reporter) -> None:
    """Show what the run reads, takes and writes."""
    from reflora_cli.console.output import show_table
    from reflora_cli.planning import shown

    show_lines("rows, steps and files", shown.data_facts(plan), reporter)
    if histogram := shown.histogram_table(plan):
        show_table(*histogram)
    show_table(*shown.memory_table(plan.memory))
    for line in shown.notes(plan):
        reporter.note(line)
    reporter.note(f"it {'fits' if plan.memory.fits else 'does not fit'} on {plan.device.name}")
