"""Compare methods: tune each with the same budget, run what was chosen on fresh seeds, and say what came of it."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reflora_cli.comparing.choosing import Choice, choose
from reflora_cli.comparing.command_line import NamedPlan
from reflora_cli.comparing.directory import ComparisonDirectory, Result, State, default_directory
from reflora_cli.comparing.execution import Execution, Runner, runner_of
from reflora_cli.comparing.fresh import FreshRows, fresh_rows
from reflora_cli.comparing.local import Ended
from reflora_cli.comparing.planned import PlannedRun, final_runs, planned_finals, tuning_runs
from reflora_cli.comparing.progress import Progress, outcome
from reflora_cli.comparing.settings import Setting
from reflora_cli.comparing.stored import continued, read_plan, stored_plan, write_plan
from reflora_cli.comparing.superseded import set_aside
from reflora_cli.comparing.too_short import refuse_short
from reflora_cli.comparing.work import Assignment
from reflora_cli.console.reporter import Reporter
from reflora_cli.ground.atomic import locked, write_json
from reflora_cli.ground.errors import DivergedError, InputError, Problem, StoppedError
from reflora_cli.ground.interruption import Interruption, noted_signals
from reflora_cli.ground.paths import exists, is_file
from reflora_cli.recipe.dotted import flattened
from reflora_cli.recipe.files import load_recipe
from reflora_cli.runs.comparison import FINAL, SETTLED
from reflora_cli.runs.directory import is_unused

UNSEEN = (
    "tuning chooses settings by the same rows that the table shows, so scores may be too good; "
    "task.validation_rows=N holds out N training rows for tuning"
)


@dataclass(frozen=True)
class Comparison:
    """What a comparison has found. results: of all its runs, those of tuning first."""

    directory: Path
    settings: Sequence[Setting]
    baseline: str | None
    results: Sequence[Result]
    choices: Sequence[Choice]
    warnings: Sequence[str]

    @property
    def status(self) -> int:
        """The exit status: 0 if all runs ended well, but for diverged ones of tuning, which lose; 1 if a run failed; 3
        if none failed and a run that is compared diverged, or every try of a method did.
        """
        if any(own.state in (State.FAILED, State.WAITING) for own in self.results):
            return 1
        lost = any(own.state is State.DIVERGED and own.run.folder == FINAL for own in self.results)
        return DivergedError.exit_status if lost or any(own.chosen is None for own in self.choices) else 0

    def remarks(self) -> list[str]:
        """Return what the user should know beside the scores: which runs have no results."""
        lost = [own for own in self.results if own.state is not State.DONE]
        told = [f"{own.run.title}: {outcome(own)}" for own in lost]
        return [f"{len(lost)} of {len(self.results)} runs have no results:", *told] if lost else []


@dataclass(frozen=True)
class Session:
    """A comparison under way. fresh: by setting, the rows that tuning never sees."""

    named: NamedPlan
    settings: Sequence[Setting]
    directory: ComparisonDirectory
    fresh: Mapping[str, FreshRows | None]
    runner: Runner
    interruption: Interruption
    progress: Progress


def compare(
    named: NamedPlan,
    settings: Sequence[Setting],
    output: Path | None,
    resume: bool,
    execution: Execution,
    reporter: Reporter,
) -> Comparison:
    """Carry out a plan and return what was found.

    settings: those of the plan, checked. output: the comparison's directory; None: one named after plan and time.
    resume: continue the comparison that is there. Raises InputError for wrong input before anything runs, and
    StoppedError after a signal.
    """
    directory = ComparisonDirectory(output or default_directory(named.name))
    check_place(directory, resume)
    runner, at_once = runner_of(execution)
    with locked(directory.path), noted_signals() as interruption:
        known = read_plan(directory) if resume else None
        settings = settings if known is None else continued(known, named, settings)
        new = [own for own in settings if known is None or own.name not in known.settings]
        refuse_short([*tuning_runs(named.plan, new), *planned_finals(named.plan, new)])
        fresh = fresh_of(named, settings)
        write_plan(directory, stored_plan(named, settings))
        total = len(tuning_runs(named.plan, settings)) + len(planned_finals(named.plan, settings))
        progress = Progress(reporter, total, at_once)
        reporter.note(f"comparing {named.name}: {len(settings)} settings, {total} runs, {at_once} at one time")
        reporter.note(f"directory: {directory.path}")
        return carried_out(Session(named, settings, directory, fresh, runner, interruption, progress))


def check_place(directory: ComparisonDirectory, resume: bool) -> None:
    """Raises InputError for a new comparison whose directory is used, and for one to continue that is not there."""
    place = str(directory.path)
    if resume and not is_file(directory.plan):
        expected, remedy = "a directory with plan.yaml and runs, given by --output", "start it without --resume"
        raise InputError(Problem("there is no comparison to resume", place, expected=expected, remedy=remedy))
    if not resume and exists(directory.path) and not is_unused(directory.path):
        remedy = "choose another --output, or continue the comparison in it with --resume"
        raise InputError(Problem("the output directory is not empty", place, remedy=remedy))


def fresh_of(named: NamedPlan, settings: Sequence[Setting]) -> dict[str, FreshRows | None]:
    """Return the fresh rows of each setting; the data are looked at once. Raises InputError for data that are wrong."""
    known: dict[str, FreshRows | None] = {}
    found: dict[str, FreshRows | None] = {}
    for run in planned_finals(named.plan, settings):
        key = run.recipe.task.model_dump_json()
        if key not in known:
            known[key] = fresh_rows(run.recipe)
        found[run.setting] = known[key]
    return found


def carried_out(session: Session) -> Comparison:
    """Carry out everything: the runs of tuning, the choice, and the runs that are compared."""
    plan, directory, settings = session.named.plan, session.directory, session.settings
    warnings = [UNSEEN] if plan.tune and not all(session.fresh.values()) else []
    session.progress.warn(warnings)
    results = carry_out(session, tuning_runs(plan, settings))
    choices: list[Choice] = []
    if plan.tune:
        own = ([result for result in results if result.run.setting == setting.name] for setting in settings)
        tried = [choose(plan.tune, setting.name, of) for setting, of in zip(settings, own, strict=True)]
        choices = [choice for choice in tried if choice is not None]
        write_json(directory.chosen, {choice.setting: choice.record() for choice in choices})
        session.progress.warn(found := [warning for choice in choices for warning in choice.warnings()])
        warnings += found
    chosen = {own.setting: own.chosen for own in choices if own.chosen is not None}
    final = final_runs(plan, settings, chosen if plan.tune else {own.name: {} for own in settings})
    if not plan.tune or len(choices) == len(settings):  # runs of a setting that could not be tuned again stay
        moved = [f"{own}: set aside, because tuning now chooses other values" for own in set_aside(directory, final)]
        session.progress.warn(moved)
        warnings += moved
    results += carry_out(session, final)
    return Comparison(directory.path, settings, plan.baseline, results, choices, warnings)


def carry_out(session: Session, runs: Sequence[PlannedRun]) -> list[Result]:
    """Carry out those runs that are not done yet, and return what all have come to. Those that failed are tried again.

    Raises StoppedError after a signal, when the runs under way have written their checkpoints.
    """
    directory, progress = session.directory, session.progress
    waiting = [run for run in runs if is_open(session, run)]
    progress.found(len(runs) - len(waiting))
    for run in waiting:
        directory.failure(run).unlink(missing_ok=True)
    work = [assignment(session, run) for run in waiting]
    for own in session.runner(work, session.interruption, lambda number: progress.begin(waiting[number])):
        progress.end(taken(directory, waiting[own.number], own), own.seconds)
    if number := session.interruption.signal:
        where, name = str(directory.path), signal.Signals(number).name
        remedy = f"to continue, give the same command with --resume --output {directory.path}"
        what = f"stopped by {name} after {progress.ended} of {progress.total} runs"
        raise StoppedError(number, Problem(what, where, remedy=remedy))
    return [directory.result(run) for run in runs]


def is_open(session: Session, run: PlannedRun) -> bool:
    """Whether there is something to do for a run. Raises InputError for a finished one of another recipe."""
    result = session.directory.result(run)
    if result.state is State.DONE:
        check_finished(session.directory, run)
        return run.folder == FINAL and session.fresh[run.setting] is not None and result.fresh is None
    return result.state is not State.DIVERGED


def check_finished(directory: ComparisonDirectory, run: PlannedRun) -> None:
    """Raises InputError for a finished run whose recipe is not that of the plan."""
    place = directory.run(run).recipe
    known, now = (flattened(own.model_dump(mode="json")) for own in (load_recipe(str(place)), run.recipe))
    changed = [key for key in now if known.get(key) != now[key] and key not in SETTLED]
    if changed:
        found, expected = ("; ".join(f"{key}: {own.get(key)}" for key in changed[:5]) for own in (known, now))
        remedy = "move the run's directory away, so that it is run again"
        raise InputError(Problem("a finished run differs from the plan", str(place), found, expected, remedy))


def assignment(session: Session, run: PlannedRun) -> Assignment:
    """Return what is to be done for a run."""
    directory = session.directory
    fresh = session.fresh[run.setting] if run.folder == FINAL else None
    return Assignment(
        recipe=run.recipe,
        run=directory.run(run).path,
        log=directory.log(run),
        failure=directory.failure(run),
        fresh_place=directory.fresh(run),
        fresh=fresh,
    )


def taken(directory: ComparisonDirectory, run: PlannedRun, ended: Ended) -> Result:
    """Return what a run has come to whose process has ended; one that could not say why it ended is written down."""
    if ended.status and not is_file(directory.failure(run)):
        how = f"by {signal.Signals(-ended.status).name}" if ended.status < 0 else f"with status {ended.status}"
        message = f"its process ended {how}; its output is in {directory.log(run)}"
        write_json(directory.failure(run), {"exit_status": 1, "message": message})
    return directory.result(run)
