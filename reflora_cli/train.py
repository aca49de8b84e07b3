"""Train: from a recipe to a run directory. The steps themselves are in `loop.py`."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list

from reflora_cli.adapter_config import peft_config
from reflora_cli.adapter_files import write_adapter_config
from reflora_cli.anomaly import detecting_anomalies
from reflora_cli.checkpoint import load_checkpoint, newest_whole, restore_parameters, restore_random_state
from reflora_cli.console import Reporter
from reflora_cli.curves import draw_curves
from reflora_cli.environment import peak_memory
from reflora_cli.errors import InputError, Problem
from reflora_cli.interruption import noted_signals
from reflora_cli.job import Job, prepare
from reflora_cli.loop import Session, run_steps, save_adapter
from reflora_cli.model.base import parameter_count
from reflora_cli.model.precision import Compute, pick_device, resolve_dtype
from reflora_cli.model.quantize import bits_per_weight
from reflora_cli.model.shard import shard_blocks
from reflora_cli.optim.pair_adamw import load_state_tensors
from reflora_cli.recipe import Recipe
from reflora_cli.recipe_file import dump_recipe
from reflora_cli.runs import (
    RunDirectory,
    default_output,
    is_unused,
    locked,
    read_results,
    remove_strays,
    write_file,
    write_json,
)
from reflora_cli.tasks.base import SequenceTask, Task
from reflora_cli.tasks.registry import find_task


def train(
    recipe: Recipe, output: Path | None, resume: bool, reporter: Reporter, *, detect_anomaly: bool = False
) -> dict[str, Any]:
    """Run a recipe and return what `results.json` holds.

    Raises InputError for wrong input before anything is written, DivergedError when the loss stops being finite.
    """
    accelerator = make_accelerator(recipe)
    run = RunDirectory(output or shared_default(recipe))
    check_output(run, recipe, resume)
    if resume and (finished := read_results(run)):
        reporter.note(f"this run is finished: {run.path}")
        return finished
    with locked(run.path) if accelerator.is_main_process else contextlib.nullcontext():
        device = accelerator.device
        dtype = resolve_dtype(recipe.model.dtype, device)
        rank, processes = accelerator.process_index, accelerator.num_processes
        sharded = recipe.model.sharded and processes > 1
        job = prepare(recipe, Compute(device, dtype, rank, processes, sharded))
        if sharded:
            blocks = shard_blocks(job.base.model, job.objective.loss_module, device, processes)
            reporter.note(f"{blocks} blocks of the base are shared among {processes} processes")
        seed_everything(recipe.train.seed + accelerator.process_index)
        model, optimizer = accelerator.prepare(job.objective.loss_module, job.optimizer)
        with noted_signals() as interruption:
            session = Session(job, accelerator, model, optimizer, run, reporter, interruption=interruption)
            start(session, resume)
            looking = detecting_anomalies(job.objective.loss_module) if detect_anomaly else contextlib.nullcontext()
            try:
                with looking:
                    run_steps(session)
            finally:
                reporter.end()
            return finish(session)


def seed_everything(seed: int) -> None:
    """All generators that dropout or a library may draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Devices and processes; a loss scaler for float16, which needs a GPU."""
    half = recipe.model.dtype == "float16"
    if half and pick_device().type == "cpu":
        problem = Problem(
            "training in float16 needs a GPU", "model.dtype", "float16 on the CPU", remedy="use float32 or bfloat16"
        )
        raise InputError(problem)
    # Buffers are quantized weights and norms, equal in all processes: DDP would send them around at every step.
    replicas = DistributedDataParallelKwargs(broadcast_buffers=False)
    return Accelerator(mixed_precision="fp16" if half else "no", kwargs_handlers=[replicas])


def shared_default(recipe: Recipe) -> Path:
    """The default run directory, the same for all processes."""
    chosen = [default_output(find_task(recipe.task.name).short, recipe.method.name)]
    broadcast_object_list(chosen)
    return chosen[0]


def check_output(run: RunDirectory, recipe: Recipe, resume: bool) -> None:
    """A new run needs an unused directory; a resumed one needs the same recipe."""
    if not resume:
        if run.path.exists() and not is_unused(run.path):
            remedy = "choose another --output, or continue the run in it with --resume"
            raise InputError(Problem("the output directory is not empty", str(run.path), remedy=remedy))
        return
    if not run.recipe.is_file():
        raise InputError(Problem("there is no run to resume", str(run.path), expected="a directory with recipe.yaml"))
    before, now = run.recipe.read_text(encoding="utf-8").splitlines(), dump_recipe(recipe).splitlines()
    if before != now:
        changed = [line.strip() for line in now if line not in before]
        known = [line.strip() for line in before if line not in now]
        what, remedy = "the recipe differs from the run's", "continue with the run's own recipe, or begin anew"
        raise InputError(Problem(what, str(run.recipe), "; ".join(changed[:5]), "; ".join(known[:5]), remedy))


def has_environment(session: Session) -> bool:
    """Whether the run already says what it began with.

    Raises InputError where the base or the data are no longer those.
    """
    run, job = session.run, session.job
    try:
        before = dict(json.loads(run.environment.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return False  # it was killed before it had written any of its own
    if before.get("packages") != job.environment["packages"]:
        session.reporter.note("continuing with other versions of libraries: the rest may differ in its last bits")
    for key, what in (("base", "the base model"), ("data", "the data")):
        known, now = before.get(key), json.loads(json.dumps(job.environment[key]))
        if known != now:
            problem = f"{what} changed since the run began"
            raise InputError(Problem(problem, str(run.environment), json.dumps(now), json.dumps(known)))
    return True


def start(session: Session, resume: bool) -> None:
    """Write the run's unchanging files, or continue from its newest checkpoint."""
    job, run = session.job, session.run
    whole, damaged = newest_whole(run) if resume else (None, [])
    for found in damaged:
        session.reporter.note(f"not continued from: {found}")
    has_begun = resume and has_environment(session)
    if whole:
        restore(session, whole)
    if session.is_writer:
        remove_strays(run)
        write_file(run.recipe, dump_recipe(job.recipe))
        if not has_begun:
            write_json(run.environment, job.environment)
        write_file(run.metrics, "".join(kept_metrics(run, session.progress.lines)))
        base = job.base.source.location, job.base.source.revision
        config = peft_config(job.base.model, job.adapted, job.recipe.method, job.saved, base, peft_task_type(job.task))
        write_adapter_config(run.adapter, config, adapter_record(job))
    session.accelerator.wait_for_everyone()
    session.reporter.facts("reflora train", {**job.facts(), "run": str(run.path)})


def peft_task_type(task: Task) -> Literal["SEQ_CLS", "CAUSAL_LM"]:
    return "SEQ_CLS" if isinstance(task, SequenceTask) else "CAUSAL_LM"


def kept_metrics(run: RunDirectory, lines: int) -> list[str]:
    """The lines of metrics.jsonl that were there at a checkpoint; those after it are written again."""
    if not lines or not run.metrics.is_file():
        return []
    return run.metrics.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[:lines]


def adapter_record(job: Job) -> dict[str, Any]:
    """What an adapter remembers of its making, for those who load it without its run."""
    return {
        "base": job.environment["base"],
        "method": job.recipe.method.model_dump(mode="json"),
        "task": job.task.name,
        "label_names": list(job.task.label_names) if isinstance(job.task, SequenceTask) else [],
        "settings": job.objective.settings(),
        "dtype": job.compute.dtype_name,
        "saved_modules": list(job.saved),
    }


def restore(session: Session, path: Path) -> None:
    """Load a checkpoint into model, optimizer, generators and progress."""
    job = session.job
    checkpoint = load_checkpoint(path)
    restore_parameters(job.adapted.parameters, checkpoint.trained, path)
    try:
        load_state_tensors(job.optimizer, job.adapted.parameters, checkpoint.optimizer)
    except ValueError as error:
        raise InputError(Problem("the checkpoint does not belong to this recipe", str(path), str(error))) from error
    restore_random_state(checkpoint.random, job.compute.rank)
    session.progress = checkpoint.progress
    if session.accelerator.scaler is not None and checkpoint.progress.scaler:
        session.accelerator.scaler.load_state_dict(checkpoint.progress.scaler)
    session.reporter.note(f"continuing from {path}")


def finish(session: Session) -> dict[str, Any]:
    """Choose the adapter, write results and curves."""
    job, progress = session.job, session.progress
    if job.recipe.eval.select == "last" or progress.best_step is None:
        save_adapter(session)
    results = summarize(session)
    if session.is_writer:
        title = f"{job.task.name}, {job.recipe.method.label}"
        try:
            draw_curves(session.run.metrics, session.run.curves, job.objective.main_metric, title)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            session.reporter.note(f"no curves are drawn, {session.run.metrics} was changed by somebody: {error!r}")
        write_json(session.run.results, results)
    session.accelerator.wait_for_everyone()
    return results


def selected_evaluation(session: Session) -> dict[str, Any] | None:
    """The evaluation of the adapter that was kept; None when nothing was evaluated."""
    progress = session.progress
    wanted = progress.best_step if session.job.recipe.eval.select == "best" else progress.step
    return next((entry for entry in progress.history if entry["step"] == wanted), None)


def summarize(session: Session) -> dict[str, Any]:
    """What `results.json` holds."""
    job, progress, recipe = session.job, session.progress, session.job.recipe
    selected = selected_evaluation(session)
    epochs = progress.step / job.sampler.steps_per_epoch
    return {
        "run": str(session.run.path),
        "task": job.task.name,
        "base": recipe.model.name,
        "method": recipe.method.label,
        "seed": recipe.train.seed,
        "main_metric": job.objective.main_metric,
        "settings": job.objective.settings(),
        "dropped_rows": job.rows.dropped,
        "selected": recipe.eval.select,
        "selected_step": selected["step"] if selected else progress.step,
        "scores": selected["scores"] if selected else None,
        "before": progress.before,
        "history": progress.history,
        "steps": progress.step,
        "epochs": epochs,
        "seconds": progress.seconds,
        "seconds_per_epoch": progress.seconds / epochs,
        "peak_memory_bytes": peak_memory(job.compute.device),
        "trained_parameters": sum(p.numel() for p in job.adapted.parameters.values()),
        "total_parameters": parameter_count(job.base.model),
        "dtype": job.compute.dtype_name,
        "quantization": recipe.model.quantization,
        "bits_per_weight": bits_per_weight(job.base.model),
        "processes": job.compute.processes,
    }
