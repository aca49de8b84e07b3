"""`reflora compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reflora_cli.cli.completion import complete_plan, complete_setting
from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.list import refuse_no_recipe
from reflora_cli.cli.opening import opened
from reflora_cli.cli.options import Json, output_option
from reflora_cli.cli.report import show_report
from reflora_cli.methods.settings import Backend

if TYPE_CHECKING:
    from reflora_cli.comparing.command_line import NamedPlan
    from reflora_cli.console.reporter import Reporter


def compare_command(
    plan: Annotated[
        str | None,
        typer.Argument(
            metavar="PLAN|RECIPE",
            help="A plan (YAML file, or bundled such as plans/quickstart) or a recipe.",
            show_default=False,
            autocompletion=complete_plan,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=V1,V2]...",
            help="Values to compare, for example method.name=lora,reflora train.seed=0..4; one value is for all.",
            show_default=False,
            autocompletion=complete_setting,
        ),
    ] = None,
    output: Annotated[Path | None, output_option("Directory of the comparison [default: compare/...].")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the comparison in --output; the plan may have more settings.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Number of parallel runs [default: one for each GPU, or 1].")
    ] = None,
    backend: Annotated[
        Backend, typer.Option("--backend", help="Where runs are executed: this machine, or a Ray cluster.")
    ] = Backend.LOCAL,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the plan and list its runs.")] = False,
    as_json: Json = False,
) -> None:
    """Compare methods: tune each with the same budget, then run what was chosen on other seeds.

    Exit status: 0 if all runs ended well (in tuning, a rate may diverge: it loses), 1 if a run failed, 3 if a compared
    run diverged.

    Example: `reflora compare quickstart method.name=lora,reflora train.seed=0..2 --output compare/first`
    """
    with guarded():
        refuse_several_processes("reflora compare")
        if plan is None:
            refuse_no_recipe("reflora compare", "quickstart method.name=lora,reflora")
        reporter = opened(plan)
        from reflora_cli.comparing.command_line import plan_of
        from reflora_cli.comparing.settings import checked_settings
        from reflora_cli.console.output import print_json
        from reflora_cli.ground.errors import InputError, Problem

        if resume and output is None:
            raise InputError(Problem("--resume needs the comparison's directory", "--output", expected="--output DIR"))
        named = plan_of(plan, settings or [])
        if dry_run:
            listed = show_runs(named, output, reporter)
            if as_json:
                print_json(listed)
            return
        checked = checked_settings(named)  # before anything heavy is imported
        from reflora_cli.comparing.compare import compare
        from reflora_cli.comparing.execution import Execution
        from reflora_cli.comparing.finish import reported
        from reflora_cli.comparing.summary import record_of

        found = compare(named, checked, output, resume, Execution(backend, jobs), reporter)
        report = reported(found, reporter)
        if report is not None:
            show_report(report, reporter)
        for line in found.remarks():
            reporter.note(line)
        reporter.note(f"the comparison: {found.directory}")
        if as_json:
            print_json({**record_of(found), **({"report": str(report.output)} if report else {})})
        if found.status:
            raise typer.Exit(found.status)


def show_runs(named: NamedPlan, output: Path | None, reporter: Reporter) -> dict[str, Any]:
    """Show the runs of a plan, and what the finished ones among them have taken, and return both for `--json`."""
    from reflora_cli.comparing.forecast import forecast

    listed = forecast(named, output)
    for line in listed.lines():
        reporter.note(line)
    return listed.record()
