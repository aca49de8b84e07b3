"""`reflora push`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.options import Json, Run
from reflora_cli.export.publication import Publication

if TYPE_CHECKING:
    from reflora_cli.export.push import Plan


def push_command(
    run: Run,
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="A repository on the hub: OWNER/NAME, or NAME for one of yours.")
    ],
    what: Annotated[
        Publication, typer.Option("--what", help="What to publish: the adapter, or the merged model in RUN/merged.")
    ] = Publication.ADAPTER,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private; an existing public one is refused.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be uploaded, without using the network.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a run's adapter, or its merged model, on the Hugging Face hub.

    Example: `reflora push runs/cola-dora me/cola-dora --dry-run`
    """
    with guarded():
        refuse_several_processes("reflora push")
        from reflora_cli.console.output import make_reporter, print_json
        from reflora_cli.export.push import plan_push, push
        from reflora_cli.runs.directory import open_run

        plan = plan_push(open_run(run), repository, what)
        show(plan, private)
        url = None if dry_run else push(plan, private)
        make_reporter().note("nothing was uploaded (--dry-run)" if url is None else f"uploaded: {url}")
        if as_json:
            print_json(
                {
                    "repository": repository,
                    "what": what.value,
                    "directory": str(plan.directory),
                    "files": plan.sizes,
                    "base_model": plan.base_model,
                    "private": private,
                    "warnings": list(plan.warnings),
                    "dry_run": dry_run,
                    "url": url,
                }
            )


def show(plan: Plan, private: bool) -> None:
    """Show what goes up, and where."""
    from reflora_cli.console.output import make_reporter, show_table
    from reflora_cli.console.stream import say

    sizes = plan.sizes
    rows = [[name, f"{size:,}", "changed" if name in plan.changed else ""] for name, size in sizes.items()]
    show_table(f"{plan.what} of {plan.directory}", ["file", "bytes", ""], rows)
    say(f"the card begins:\n---\n{plan.front_matter}\n---")
    reporter = make_reporter()
    reporter.facts(
        "to the hub",
        {
            "repository": f"{plan.repository}{', private' if private else ''}",
            "base_model": plan.base_model or "none",
            "files": f"{len(sizes)}, {sum(sizes.values()):,} bytes",
        },
    )
    for warning in plan.warnings:
        reporter.note(f"warning: {warning}")
