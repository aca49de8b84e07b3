"""`reflora merge`."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from reflora_cli.cli.guard import guarded
from reflora_cli.cli.options import Json, Run


class Dtype(StrEnum):
    """The dtypes that weights can be written in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def merge_command(
    run: Run,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write [default: RUN/merged].")] = None,
    dtype: Annotated[Dtype | None, typer.Option("--dtype", help="Of the written weights [default: the run's].")] = None,
    as_json: Json = False,
) -> None:
    """Fold a run's adapter into its base: a directory that plain transformers loads, checked against the adapter.

    Example: `reflora merge runs/cola-dora --output cola-model`
    """
    with guarded():
        from reflora_cli.console import make_reporter, print_json
        from reflora_cli.recipe_file import load_recipe
        from reflora_cli.runs import open_run

        directory = open_run(run)
        recipe = load_recipe(str(directory.recipe), [])
        from reflora_cli.merge import merge

        report = merge(recipe, directory.adapter, output or run / "merged", dtype.value if dtype else None)
        facts = {
            "model": report.output,
            "weights": report.dtype,
            "checked on": f"{report.rows} task rows",
            "largest logit difference": f"{report.largest_difference:.2e} (tolerance {report.tolerance:.2e})",
            "mean logit difference": f"{report.mean_difference:.2e}",
            "changed predictions": str(report.changed_predictions),
        }
        make_reporter().facts("merged and verified", facts)
        if as_json:
            print_json(asdict(report))
