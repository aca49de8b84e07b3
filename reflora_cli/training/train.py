"""Train from a recipe to a run directory. The steps are in `loop.py`, how a run begins in `resume.py`."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from reflora_cli.adapter_io.files import CONFIG
from reflora_cli.adapter_io.formats import read_config
from reflora_cli.console.reporter import SILENT, Reporter
from reflora_cli.export.card import adapter_card, asked_section, make_subject
from reflora_cli.ground.atomic import write_file, write_json
from reflora_cli.ground.interruption import noted_signals
from reflora_cli.model.chat_template import served_tokenizer
from reflora_cli.model.precision import Compute, resolve_dtype
from reflora_cli.model.shard import shard_blocks
from reflora_cli.model.tokenizer_files import tokenizer_files
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.runs.directory import CARD, RunDirectory, default_output, read_results, refuse_links
from reflora_cli.runs.places import with_data_found, with_places
from reflora_cli.runs.resumed import resumed_steps
from reflora_cli.runs.together import locked_by_first, of_first
from reflora_cli.training.anomaly import detecting_anomalies
from reflora_cli.training.checkpoint import trained_tensors
from reflora_cli.training.compile import compiling
from reflora_cli.training.confusion import MOST_DRAWN, draw_confusion
from reflora_cli.training.curves import Curves, draw_curves
from reflora_cli.training.devices import dropout_note, idle_notes, make_accelerator
from reflora_cli.training.earlier import find_earlier, settled
from reflora_cli.training.job import Job
from reflora_cli.training.loop import run_steps
from reflora_cli.training.marks import marks
from reflora_cli.training.own_labels import with_labels
from reflora_cli.training.own_template import refuse_unchosen_prompt, with_template
from reflora_cli.training.prepare import prepare
from reflora_cli.training.results import summarize
from reflora_cli.training.resume import base_of, check_output, chosen_checkpoint, start
from reflora_cli.training.session import Session, current_adapter, save_adapter
from reflora_cli.training.tracked import tracked


def train(
    recipe: Recipe,
    output: Path | None = None,
    resume: bool = False,
    reporter: Reporter = SILENT,
    *,
    detect_anomaly: bool = False,
) -> dict[str, Any]:
    """Run a recipe and return what `results.json` holds.

    output: the run directory; None: one named after task, method, seed and time. reporter: what is shown meanwhile.

    Raises InputError for wrong input before anything is written, DivergedError when the loss stops being finite.
    """
    accelerator = make_accelerator(recipe)
    recipe = with_template(with_labels(recipe, output if resume else None))
    compute = compute_of(recipe, accelerator)
    run = RunDirectory(output or of_first(compute, lambda: default_place(recipe)))
    earlier = find_earlier(recipe, run.after if resume else None)
    recipe = settled(recipe, earlier)
    check_output(run, recipe, resume)
    if finished := finished_before(run, resume, reporter):
        return finished
    with locked_by_first(run.path, compute):
        if finished := finished_before(run, resume, reporter):  # meanwhile, by another process
            return finished
        refuse_links(run)
        place = chosen_checkpoint(run, compute, reporter) if resume else None
        section = base_of(recipe, run, resume)
        if not resume:
            refuse_unchosen_prompt(recipe, section)
        read = with_data_found(recipe, run) if resume else recipe
        job = prepare(read, compute, section, earlier, trained_tensors(place) if place else None, reporter)
        job = replace(job, recipe=recipe, environment=with_places(job.environment, read, run, job.base.source))
        make_ready(job, accelerator, reporter)
        # A tokenizer that cannot be saved is found out before the first step.
        beside = tokenizer_files(served_tokenizer(job.base, job.task)) if accelerator.is_main_process else {}
        model, optimizer = accelerator.prepare(job.objective.loss_module, job.optimizer)
        with noted_signals() as interruption:
            session = Session(job, accelerator, model, optimizer, run, reporter, interruption, beside)
            start(session, resume, place)
            try:
                watch = watching(session) if detect_anomaly else contextlib.nullcontext()
                with tracked(session, resume), compiling(session, detect_anomaly), watch:
                    run_steps(session)
            finally:
                reporter.end()
            return finish(session)


def finished_before(run: RunDirectory, resume: bool, reporter: Reporter) -> dict[str, Any] | None:
    """Return the results of a run that is to be resumed but is finished already."""
    finished = read_results(run) if resume else None
    if finished:
        reporter.note(f"this run is finished: {run.path}")
    return finished


def watching(session: Session) -> AbstractContextManager[None]:
    """Look for the first value that is not finite in every step, if asked to."""
    total = session.job.total_steps
    return detecting_anomalies(
        session.job.objective.loss_module, lambda: f"step {session.progress.step + 1} of {total}"
    )


def compute_of(recipe: Recipe, accelerator: Accelerator) -> Compute:
    """Return where and in what precision this process computes."""
    processes = accelerator.num_processes
    dtype = resolve_dtype(recipe.model.dtype, accelerator.device)
    sharded = recipe.model.sharded and processes > 1
    return Compute(accelerator.device, dtype, accelerator.process_index, processes, sharded)


def make_ready(job: Job, accelerator: Accelerator, reporter: Reporter) -> None:
    """Share the base among the processes if the recipe asks for it, and seed the generators that dropout and libraries
    draw from.
    """
    processes, train = accelerator.num_processes, job.recipe.train
    if job.compute.sharded:
        blocks = shard_blocks(job.base.model, job.objective.loss_module, accelerator.device, processes)
        reporter.note(f"{blocks} blocks of the base are shared among {processes} processes")
    if drawn := dropout_note(job.base.model, processes, train.packing):
        reporter.note(drawn)
    for note in idle_notes(job.recipe, accelerator.device.type):
        reporter.note(note)
    # A recipe's seed has 32 bits, and numpy takes no more: the sum with the process's number may have 33.
    set_seed((train.seed + accelerator.process_index) % 2**32)


def default_place(recipe: Recipe) -> Path:
    """Return the run directory where none is named."""
    return default_output(task_of(recipe.task).short, recipe.method.name, recipe.train.seed)


def finish(session: Session) -> dict[str, Any]:
    """Write the adapter that was chosen, results and curves."""
    save_adapter(session, session.best or current_adapter(session))
    results = summarize(session)
    if session.is_writer:
        draw_progress(session)
        draw_confusions(session)
        write_card(session, results)
        write_json(session.run.results, results)
    session.accelerator.wait_for_everyone()
    return results


def draw_progress(session: Session) -> None:
    """Draw the curves of a run from its log."""
    job, run, progress = session.job, session.run, session.progress
    best = progress.best_step
    curves = Curves(
        score=job.objective.main_metric,
        title=f"{job.task.name}, {job.recipe.method.label}",
        best=best,
        marks=marks(job.recipe, best),
        continued=resumed_steps(run),
    )
    try:
        images = draw_curves(run.metrics, curves)
    except Exception as error:  # the log may have been changed or removed by somebody: no run is lost for that
        session.reporter.note(f"no curves are drawn of {run.metrics}: {error!r}")
        return
    for kind, image in images.items():
        write_file(run.curves.with_suffix(f".{kind}"), image)


def write_card(session: Session, results: dict[str, Any]) -> None:
    """Write the model card of the adapter."""
    job, directory = session.job, session.run.adapter
    source = replace(job.base.source, revision=job.base.source.revision or job.base.commit)
    about = make_subject(job.recipe, source, results, job.base.labels)
    asked = asked_section(job.task, job.base.tokenizer)
    write_file(directory / CARD, adapter_card(about, read_config(directory / CONFIG), job.unreadable, asked=asked))


def draw_confusions(session: Session) -> None:
    """Draw which classes of the first split are taken for one another, if they are few enough to be seen."""
    for split, report in session.progress.report.items():
        names, matrix = list(report["classes"]), report.get("confusion")
        if matrix is not None and len(names) <= MOST_DRAWN:
            title = f"{session.job.task.name}, {session.job.recipe.method.label}, {split}"
            write_file(session.run.confusion, draw_confusion(matrix, names, title))
            return
