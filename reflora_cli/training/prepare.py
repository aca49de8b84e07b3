"""Turn a recipe into everything a training run needs, checked, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.inject import inject, remove_empty
from reflora_cli.adapters.low_rank import hold_first_factors
from reflora_cli.console.reporter import SILENT, Reporter, Work
from reflora_cli.data.batches import StepSampler
from reflora_cli.factors.pair import Role
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.attention import refuse_attention
from reflora_cli.model.base import Base
from reflora_cli.model.fit import check_length
from reflora_cli.model.labels import refuse_foreign_head
from reflora_cli.model.precision import Compute
from reflora_cli.objectives.objective import Objective
from reflora_cli.objectives.pick import kind_of
from reflora_cli.objectives.rows import Examples, Rows, probe_examples
from reflora_cli.objectives.trimmed import trim_last_block
from reflora_cli.optim.build import Rates, build_course, build_optimizer
from reflora_cli.optim.partition import Partition
from reflora_cli.optim.roles import Roles
from reflora_cli.recipe.sections import ModelSection, Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.runs.environment import describe
from reflora_cli.runs.trained_base import found_again, unchecked
from reflora_cli.tracking.begin import refuse_missing
from reflora_cli.training.begin import Fitting, begin, fitting
from reflora_cli.training.earlier import Earlier
from reflora_cli.training.factors import continue_factors, sight_of, start_factors
from reflora_cli.training.job import Job
from reflora_cli.training.targets import left_out


def prepare(
    recipe: Recipe,
    compute: Compute,
    section: ModelSection,
    earlier: Earlier | None = None,
    continued: Mapping[str, Tensor] | None = None,
    reporter: Reporter = SILENT,
) -> Job:
    """Load, check and build all of a run.

    section: the recipe's base, with the place where it is. earlier: the adapter from which the run begins. continued:
    the trained tensors of the checkpoint that it continues from, by full name. reporter: what is shown meanwhile.

    Raises InputError for whatever the user can mend.
    """
    refuse_missing(recipe.train.trackers)
    refuse_attention(recipe.model.attention, compute.device, compute.dtype)
    kind = kind_of(task_of(recipe.task))
    examples = kind.load_examples(recipe)
    section = section if earlier is None else found_again(section, earlier.base)
    loaded = loaded_base(recipe, kind.load_base(section, section.revision, compute.dtype, recipe.train.seed), earlier)
    built = built_model(recipe, compute, loaded, examples)
    total = total_steps(recipe, built.sampler)
    settle_factors(recipe, compute, built, continued, reporter)
    base, fit = built.base, built.fit
    return Job(
        recipe=recipe,
        task=task_of(recipe.task),
        base=base,
        adapted=built.adapted,
        saved=base.saved(recipe.method),
        rows=built.rows,
        objective=built.objective,
        sampler=built.sampler,
        optimizer=make_optimizer(recipe, base, built.adapted, total),
        total_steps=total,
        probes=probe_examples(examples),
        environment=describe(base, examples, compute.device) | ({"after": earlier.record()} if earlier else {}),
        left_out=built.left_out,
        earlier=earlier,
        beginning=fit.facts(earlier, unchecked(section, earlier.base)) if fit and earlier else {},
    )


@dataclass(frozen=True)
class Loaded:
    """A run's base, checked, and what of an earlier adapter goes onto it; None where the run begins from none."""

    base: Base
    fit: Fitting | None


@dataclass(frozen=True)
class Built:
    """A run's base on its device with its adapters, and the rows that it learns from, in their order.

    fit: as of `Loaded`. left_out: the modules that `all-linear` leaves out, by reason.
    """

    base: Base
    fit: Fitting | None
    objective: Objective[Any]
    rows: Rows
    sampler: StepSampler
    adapted: Adapted
    left_out: dict[str, list[str]]


def built_model(recipe: Recipe, compute: Compute, loaded: Loaded, examples: Examples) -> Built:
    """Return the model as its training computes it, new factors still at zero. Raises InputError for a model that
    cannot compute rows as the recipe asks.
    """
    base, train, kind = loaded.base, recipe.train, kind_of(task_of(recipe.task))
    base.place(compute.device)
    objective = kind.make_objective(recipe, base, compute)
    if train.packing:
        objective.pack()
    unfit = left_out(objective, recipe.method, base.saved(recipe.method))
    rows = kind.encode(recipe, base, examples)
    adapted = adapted_base(recipe, base, loaded.fit, unfit)
    if train.trim_last_block:
        trim_last_block(objective)
    if train.gradient_checkpointing:
        base.recompute_activations()
    return Built(base, loaded.fit, objective, rows, sampler_of(recipe, rows), adapted, unfit)


def settle_factors(
    recipe: Recipe, compute: Compute, built: Built, continued: Mapping[str, Tensor] | None, reporter: Reporter
) -> None:
    """Give a run's adapters the values with which it begins or continues, and take out those that a start has left
    without a rank. continued, reporter: as for `prepare`.
    """
    adapted, method = built.adapted, recipe.method
    if continued is not None:
        continue_factors(adapted, recipe, continued)
    elif built.fit is None:
        sight = sight_of(recipe, built.objective, built.rows, built.sampler, reporter.note)
        with reporter.counting(Work(f"start {method.start}", len(adapted.layers), "modules")) as tell:
            start_factors(adapted, recipe, compute, sight, lambda done, _: tell(done))
    remove_empty(built.base.model, adapted)
    if method.update.holds_a:
        hold_first_factors(adapted)


def loaded_base(recipe: Recipe, base: Base, earlier: Earlier | None) -> Loaded:
    """Return the base under the name that the recipe gives it: a run is known by that, wherever the base was found.

    Raises InputError for a head with other labels, for rows longer than the model reads, and for an earlier adapter
    that does not fit.
    """
    name = recipe.model.name if base.source.is_local else base.source.name
    source = replace(base.source, name=name, revision=recipe.model.revision)
    base = replace(base, source=source, reserved=recipe.method.layer.reserved)
    task = task_of(recipe.task)
    fit = fitting(earlier, base, task, recipe.method) if earlier is not None else None
    base = base if fit is None else fit.base
    refuse_foreign_head(base, task)
    check_length(base, recipe.task.max_length)
    return Loaded(base, fit)


def sampler_of(recipe: Recipe, rows: Rows) -> StepSampler:
    """Return the order of a run's training rows."""
    train = recipe.train
    lengths = [len(row.input_ids) for row in rows.training] if train.group_by_length else []
    return StepSampler(len(rows.training), train.batch_size, train.seed, lengths)


def adapted_base(recipe: Recipe, base: Base, fit: Fitting | None, unfit: Mapping[str, Sequence[str]]) -> Adapted:
    """Return the base with its adapters in place: new ones, still at zero, or those of the adapter that it begins from.

    unfit: the modules that `all-linear` leaves out, by reason.
    """
    trainable, saved = base.trainable(recipe.method), base.saved(recipe.method)
    kept_out = [name for names in unfit.values() for name in names]
    if fit is None:
        return inject(base.model, recipe.method, trainable, saved, kept_out)
    return begin(fit, recipe.method, trainable, saved, kept_out)


def total_steps(recipe: Recipe, sampler: StepSampler) -> int:
    """Return the optimizer steps of the whole run. Raises InputError when a warm-up of rate or rule would outlast
    it.
    """
    train, method = recipe.train, recipe.method
    epochs = train.epochs or 0.0
    total = train.steps or max(1, math.ceil(epochs * sampler.steps_per_epoch))
    if train.warmup_steps >= total:
        problem = Problem(
            "the run ends before the learning rate reaches its peak",
            where="train.warmup_steps",
            found=f"{train.warmup_steps} warm-up steps in a run of {total}",
            expected=f"fewer than {total}",
            remedy="lower train.warmup_steps or train longer",
        )
        raise InputError(problem)
    if method.update.plain_steps >= total:
        problem = Problem(
            f"the run ends before method.update={method.update} first acts: all of its steps would be plain",
            where="method.update.warmup_steps",
            found=f"{method.update.plain_steps} warm-up steps in a run of {total}",
            expected=f"fewer than {total}",
            remedy="lower method.update.warmup_steps or train longer",
        )
        raise InputError(problem)
    if reason := method.layer.too_short(total):
        problem = Problem(f"the run is too short for method.layer={method.layer}", "method.layer", reason,
                          remedy="lower these settings, or train longer")  # fmt: skip
        raise InputError(problem)
    return total


def roles_in(adapted: Adapted) -> Roles:
    """Return the roles of all trained parameters."""
    undecayed, decayed, frames = (adapted.of_role(own) for own in (Role.UNDECAYED, Role.DECAYED, Role.FRAME))
    return Roles(adapted.pairs, undecayed, decayed, adapted.others, frames)


def make_optimizer(recipe: Recipe, base: Base, adapted: Adapted, steps: int) -> Partition:
    """Return the optimizer of all that the run trains, in so many steps."""
    train = recipe.train
    rates = Rates(
        train.learning_rate,
        train.head_learning_rate,
        train.weight_decay,
        train.optimizer,
        train.momentum,
        base.hidden_size,
    )
    course = build_course(recipe.method, adapted.triplets, steps)
    return build_optimizer(recipe.method, roles_in(adapted), rates, course)
