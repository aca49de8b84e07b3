"""`reflora merge`."""

from __future__ import annotations

from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.opening import opened
from reflora_cli.cli.options import Adapter, Json, Places, Run, output_option
from reflora_cli.cli.trained import merge_request, refuse_no_place, trained_recipe
from reflora_cli.methods.settings import BaseWeights, Dtype, Quantization


class Requantization(StrEnum):
    """The ways in which merged weights can be quantized again."""

    NF4 = Quantization.NF4.value


def merge_command(
    run: Run,
    places: Places = None,
    output: Annotated[Path | None, output_option("Where to write [default: RUN/merged].")] = None,
    base_weights: Annotated[
        BaseWeights,
        typer.Option(
            "--base-weights", help="The base's weights as training saw them, or as the checkpoint holds them."
        ),
    ] = BaseWeights.DEQUANTIZED,
    dtype: Annotated[
        Dtype, typer.Option("--dtype", help="Dtype of the written weights; auto: the run's.")
    ] = Dtype.AUTO,
    requantize: Annotated[
        Requantization | None,
        typer.Option("--requantize", help="Quantize the merged model by bitsandbytes, and report the difference."),
    ] = None,
    adapter: Adapter = None,
    as_json: Json = False,
) -> None:
    """Fold a run's adapter into its base: a directory that plain transformers loads, checked against the adapter.

    Example: `reflora merge runs/cola-dora --output cola-model`
    """
    with guarded():
        refuse_several_processes("reflora merge")
        reporter = opened(run)
        from reflora_cli.console.output import print_json
        from reflora_cli.runs.directory import open_run

        refuse_no_place(adapter, output)
        directory = open_run(run, adapter)
        recipe = trained_recipe(directory, places, reporter)
        from reflora_cli.merging.merge import merge

        report = merge(
            replace(
                merge_request(recipe, directory, output or run / "merged"),
                dtype=None if dtype is Dtype.AUTO else dtype,
                base_weights=base_weights,
                requantize=Quantization.NF4 if requantize else None,
            ),
            reporter,
        )
        reporter.facts("merged and verified", facts_of(report))
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
