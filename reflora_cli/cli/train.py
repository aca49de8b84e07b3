"""`reflora train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reflora_cli.cli.guard import guarded
from reflora_cli.cli.list import refuse_no_recipe
from reflora_cli.cli.opening import opened
from reflora_cli.cli.options import Json, LearningRate, Overrides, RecipeName, Seed, output_option, with_short_forms
from reflora_cli.ground.paths import is_file
from reflora_cli.ground.processes import is_first_process

if TYPE_CHECKING:
    from reflora_cli.console.reporter import Reporter


def train_command(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    seed: Seed = None,
    rate: LearningRate = None,
    output: Annotated[Path | None, output_option("Run directory [default: runs/...].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show the plan, train nothing.")] = False,
    detect_anomaly: Annotated[
        bool, typer.Option("--detect-anomaly", help="Find the first operation with a result that is not finite; slow.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model as a recipe says.

    Example: `reflora train glue/cola method.name=dora --seed 1 --output runs/cola-dora`
    """
    with guarded():
        if recipe is None:
            refuse_no_recipe("reflora train", "quickstart")
        given = with_short_forms(overrides, seed, rate)
        reporter = opened(recipe)
        from reflora_cli.ground.errors import InputError, Problem
        from reflora_cli.recipe.files import load_recipe

        loaded = load_recipe(recipe, given)
        if resume and output is None:
            raise InputError(Problem("--resume needs the run directory", "--output", expected="--output RUN"))
        from reflora_cli.console.output import print_json

        if dry_run:
            if is_first_process():
                shown = plan(loaded, reporter, output)
                if as_json:
                    print_json(shown)
            return
        from reflora_cli.training.train import train

        results = train(loaded, output, resume, reporter, detect_anomaly=detect_anomaly)
        if not is_first_process():
            return
        reporter.facts("done", closing_facts(results, str(output or results["run"])))
        if as_json:
            print_json(results)


def plan(recipe: Any, reporter: Reporter, output: Path | None) -> dict[str, Any]:
    """Prepare the run without writing anything, show what it would do and what it would take, and return both."""
    from reflora_cli.cli.plan import show_estimates
    from reflora_cli.model.precision import Compute, pick_device, resolve_dtype
    from reflora_cli.training.earlier import find_earlier, settled
    from reflora_cli.training.own_labels import with_labels
    from reflora_cli.training.own_template import refuse_unchosen_prompt, with_template
    from reflora_cli.training.prepare import prepare

    device = pick_device()
    recipe = with_template(with_labels(recipe, None))
    earlier = find_earlier(recipe)
    recipe = settled(recipe, earlier)
    refuse_unchosen_prompt(recipe, recipe.model)
    compute = Compute(device, resolve_dtype(recipe.model.dtype, device))
    job = prepare(recipe, compute, recipe.model, earlier, reporter=reporter)
    reporter.facts("plan: nothing was trained or written", job.facts())
    row = job.objective.shown(job.rows.training[0])
    if row:
        reporter.text("the first training row, with what is learned marked", row)
    estimates = show_estimates(recipe, output, reporter)
    shown = {"plan": job.facts(), **({"row": row} if row else {}), "recipe": recipe.model_dump(mode="json")}
    return {**shown, "estimates": estimates}


def closing_facts(results: dict[str, Any], run: str) -> dict[str, str]:
    """Return the result and the next commands. run: where the run is now."""
    from reflora_cli.methods.layers import LoRALayer
    from reflora_cli.recipe.files import load_recipe
    from reflora_cli.runs.directory import RunDirectory

    facts: dict[str, str] = {}
    for split, scores in (results["scores"] or {}).items():
        metric, score = next(iter(scores.items()))  # the main one
        before = f", {results['before'][split][metric]:.4f} before" if results["before"] else ""
        facts[f"{metric}, {split}"] = f"{score:.4f}{before} (step {results['selected_step']})"
    facts["time"] = f"{results['seconds']:.1f} s of steps, {results['seconds_per_epoch']:.1f} s per epoch"
    facts["adapter"] = f"{run}/adapter"
    directory = RunDirectory(Path(run))
    if is_file(directory.curves):
        facts["curves"] = str(directory.curves)
    facts["score it"] = f"reflora eval {run}"
    layer = load_recipe(str(directory.recipe)).method.layer if is_file(directory.recipe) else LoRALayer()
    if not layer.not_merged:
        facts["merge it"] = f"reflora merge {run} --output {run}/merged"
    if not layer.not_for_peft:
        facts["export it"] = f"reflora export {run} --format peft"
    return facts
