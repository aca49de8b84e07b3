"""`reflora merge`."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.options import Json, Places, Run
from reflora_cli.cli.trained import trained_recipe


class Dtype(StrEnum):
    """The dtypes that weights can be written in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class BaseWeights(StrEnum):
    """The weights of the base to which the adapter is added."""

    DEQUANTIZED = "dequantized"
    ORIGINAL = "original"


class Packed(StrEnum):
    """The ways in which merged weights can be quantized again."""

    NF4 = "nf4"


def merge_command(
    run: Run,
    places: Places = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write [default: RUN/merged].")] = None,
    base_weights: Annotated[
        BaseWeights, typer.Option("--base-weights", help="Those that training saw, or the checkpoint's own.")
    ] = BaseWeights.DEQUANTIZED,
    dtype: Annotated[Dtype | None, typer.Option("--dtype", help="Of the written weights [default: the run's].")] = None,
    requantize: Annotated[
        Packed | None, typer.Option("--requantize", help="Write a bitsandbytes checkpoint, and say what it costs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fold a run's adapter into its base: a directory that plain transformers loads, checked against the adapter.

    Example: `reflora merge runs/cola-dora --output cola-model`
    """
    with guarded():
        refuse_several_processes("reflora merge")
        from reflora_cli.console.output import make_reporter, print_json
        from reflora_cli.runs.directory import open_run

        directory = open_run(run)
        recipe = trained_recipe(directory, places)
        from reflora_cli.export.card import merged_card
        from reflora_cli.merging.merge import MergeRequest, merge
        from reflora_cli.runs.restore import kept_rows

        report = merge(
            MergeRequest(
                recipe,
                directory.adapter,
                output or run / "merged",
                dtype.value if dtype else None,
                base_weights.value,
                requantize.value if requantize else None,
                merged_card(recipe, directory),
                kept_rows(recipe, directory),
            )
        )
        make_reporter().facts("merged and verified", facts_of(report))
        if as_json:
            print_json(asdict(report))


def facts_of(report: Any) -> dict[str, str]:
    """Return a merge's report as it is shown."""
    facts = {
        "model": report.output,
        "weights": f"{report.dtype}, on the {report.base_weights} base",
        "checked on": f"{report.rows} task rows",
        "largest logit difference": f"{report.largest_difference:.2e} (tolerance {report.tolerance:.2e})",
        "mean logit difference": f"{report.mean_difference:.2e}",
        "changed predictions": f"{report.changed_predictions} ({report.changed_rate:.2%})",
    }
    costs = {"to the quantized model": report.quantization_difference, "of requantization": report.rounding_difference}
    for name, cost in costs.items():
        if cost is not None:
            facts[f"difference {name}"] = f"{cost['largest']:.2e}, {cost['changed_rate']:.2%} of predictions changed"
    return facts
