"""Turn a recipe into everything a training run needs, checked, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from reflora_cli.adapter_io.peft_rules import unreadable
from reflora_cli.adapters.inject import Adapted, inject, stacked_experts
from reflora_cli.adapters.start import start, take_up
from reflora_cli.adapters.ties import is_inside
from reflora_cli.data.batches import StepSampler
from reflora_cli.factors.pair import Role
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.base import Base, parameter_count
from reflora_cli.model.fit import check_length
from reflora_cli.model.labels import refuse_foreign_head
from reflora_cli.model.precision import Compute, is_emulated
from reflora_cli.model.quantize import bits_per_weight, quantized_kind
from reflora_cli.objectives.objective import Objective
from reflora_cli.objectives.pick import kind_of
from reflora_cli.objectives.rows import Rows, probe_examples
from reflora_cli.optim.build import Rates, build_optimizer
from reflora_cli.optim.partition import Partition
from reflora_cli.optim.roles import Roles
from reflora_cli.recipe.sections import ModelSection, Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.runs.environment import describe
from reflora_cli.runs.trained_base import found_again, unchecked
from reflora_cli.tasks.base import Example, PromptExample, Task
from reflora_cli.training.begin import Fitting, begin, fitting
from reflora_cli.training.earlier import Earlier
from reflora_cli.training.targets import left_out, listed


@dataclass(frozen=True)
class Job:
    """A training run, ready to start.

    saved: modules that travel with the adapter, trained or not. probes: rows on which to compare forms of the model
    later. left_out: linear layers without an adapter, by reason. earlier: the adapter from which the run begins, and
    beginning: what the user should see of that.
    """

    recipe: Recipe
    task: Task
    base: Base
    adapted: Adapted
    saved: tuple[str, ...]
    rows: Rows
    objective: Objective[Any]
    sampler: StepSampler
    optimizer: Partition
    total_steps: int
    probes: list[Example | PromptExample]
    environment: dict[str, object]
    left_out: dict[str, list[str]]
    earlier: Earlier | None
    beginning: dict[str, str]

    @property
    def compute(self) -> Compute:
        return self.objective.compute

    @property
    def emulates(self) -> bool:
        return is_emulated(self.compute.device, self.compute.dtype)

    def kind(self, row: int) -> int:
        """Return the value that all training rows of one batch must share, for the row with this index."""
        return self.objective.kind(self.rows.training[row])

    def quantization(self) -> str:
        bits = bits_per_weight(self.base.model)
        return "" if bits is None else f", {quantized_kind(self.base.model)} ({bits:.2f} bits per weight)"

    @property
    def unreadable(self) -> str:
        """Why PEFT cannot read the adapter; empty if it can."""
        return unreadable(self.base.model, self.adapted.layers)

    def not_adapted(self) -> dict[str, str]:
        """Return the modules without an adapter that a user of the default targets would not expect."""
        found = [f"{listed(names)} ({reason})" for reason, names in self.left_out.items()]
        if experts := stacked_experts(self.base.model):
            share = sum(experts.values()) / parameter_count(self.base.model)
            found.append(f"{len(experts)} stacked weights of experts, {share:.0%} of all parameters")
        return {"not adapted": "; ".join(found)} if found else {}

    def trained_whole(self) -> str:
        """Return the modules trained whole, and those that train with them because they share a weight."""
        chosen = self.base.trainable(self.recipe.method)
        tied = [name for name in self.saved if not is_inside(name, (*chosen, *self.base.fresh))]
        return (", ".join(chosen) or "nothing") + (f", with {', '.join(tied)} (tied)" if tied else "")

    def facts(self) -> dict[str, str]:
        """Return what the user should see before the first step."""
        trained = sum(parameter.numel() for parameter in self.adapted.parameters.values())
        total = parameter_count(self.base.model)
        matches = ", ".join(f"{pattern} ({count})" for pattern, count in self.adapted.matches.items())
        method = self.recipe.method
        return {
            "model": f"{self.base.source.name}, {self.compute.dtype_name}, {self.compute.device}{self.quantization()}",
            **({"slow": "this CPU emulates half precision; float32 is many times faster"} if self.emulates else {}),
            "method": f"{method.label}, rank {method.rank}, alpha {method.alpha:g}",
            **({"caution": "; ".join(warnings)} if (warnings := cautions(self.recipe)) else {}),
            **self.beginning,
            "targets": matches,
            **self.not_adapted(),
            **({"not for PEFT": f"{reason}: merge it"} if (reason := self.unreadable) else {}),
            "trained whole": self.trained_whole(),
            "parameters": f"{trained:,} trained of {total:,} ({trained / total:.2%})",
            "task": f"{self.task.name}, {len(self.rows.training):,} training rows",
            **self.rows.facts,
            **(
                {"dropped": f"{self.rows.dropped:,} rows whose answer max_length cuts off"} if self.rows.dropped else {}
            ),
            **({"batches": "; ".join(notes)} if (notes := self.objective.notes()) else {}),
            "steps": f"{self.total_steps:,} of {self.recipe.train.batch_size} rows",
        }


def prepare(
    recipe: Recipe,
    compute: Compute,
    section: ModelSection,
    earlier: Earlier | None = None,
    continued: Mapping[str, Tensor] | None = None,
) -> Job:
    """Load, check and build all of a run.

    section: the recipe's base, with the place where it is. earlier: the adapter from which the run begins. continued:
    the trained tensors of the checkpoint that it continues from, by full name.

    Raises InputError for whatever the user can mend.
    """
    task = task_of(recipe.task)
    kind = kind_of(task)
    examples = kind.load_examples(recipe)
    section = section if earlier is None else found_again(section, earlier.base)
    base = kind.load_base(section, section.revision, compute.dtype, recipe.train.seed)
    # A run is known by what its recipe says, wherever that was found this time.
    name = recipe.model.name if base.source.is_local else base.source.name
    base = replace(base, source=replace(base.source, name=name, revision=recipe.model.revision))
    fit = fitting(earlier, base, task, recipe.method) if earlier is not None else None
    base = base if fit is None else fit.base
    refuse_foreign_head(base, task)
    check_length(base, recipe.task.max_length)
    base.place(compute.device)
    objective = kind.make_objective(recipe, base, compute)
    unfit = left_out(objective, recipe.method, base.saved(recipe.method))
    rows = kind.encode(recipe, base, examples)
    adapted = adapted_base(recipe, base, fit, unfit)
    if continued is not None:
        take_up(adapted, continued)
    elif fit is None:
        start(adapted, recipe.method.start, recipe.train.seed)
    lengths = [len(row.input_ids) for row in rows.training] if recipe.train.group_by_length else []
    sampler = StepSampler(len(rows.training), recipe.train.batch_size, recipe.train.seed, lengths)
    total = total_steps(recipe, sampler)
    if recipe.train.gradient_checkpointing:
        base.recompute_activations()
    return Job(
        recipe=recipe,
        task=task,
        base=base,
        adapted=adapted,
        saved=base.saved(recipe.method),
        rows=rows,
        objective=objective,
        sampler=sampler,
        optimizer=make_optimizer(recipe, adapted),
        total_steps=total,
        probes=probe_examples(examples),
        environment=describe(base, examples, compute.device) | ({"after": earlier.record()} if earlier else {}),
        left_out=unfit,
        earlier=earlier,
        beginning=fit.facts(earlier, unchecked(section, earlier.base)) if fit and earlier else {},
    )


def adapted_base(recipe: Recipe, base: Base, fit: Fitting | None, unfit: Mapping[str, Sequence[str]]) -> Adapted:
    """Return the base with its adapters in place: new ones, still at zero, or those of the adapter that it begins from.

    unfit: the modules that `all-linear` leaves out, by reason.
    """
    trainable, saved = base.trainable(recipe.method), base.saved(recipe.method)
    kept_out = [name for names in unfit.values() for name in names]
    if fit is None:
        return inject(base.model, recipe.method, trainable, saved, kept_out)
    return begin(fit, recipe.method, trainable, saved, kept_out)


def cautions(recipe: Recipe) -> list[str]:
    """Say which settings are legal but seldom meant."""
    method, rate = recipe.method, recipe.train.learning_rate
    found = []
    if method.lr_ratio > 1:
        found.append(
            f"B learns at {rate * method.lr_ratio:g}: with method.lr_ratio={method.lr_ratio:g} (LoRA+) the best "
            "train.learning_rate was 2 to 57 times below LoRA's"
        )
    if method.lr_ratio != 1 and method.update.corrects_balance:
        found.append(f"method.lr_ratio and {method.update} both correct the balance of A and B: use one of them")
    return found


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
            f"the run ends before {method.update} begins: it would be plain training under another name",
            where="method.update.warmup_steps",
            found=f"{method.update.plain_steps} warm-up steps in a run of {total}",
            expected=f"fewer than {total}",
            remedy="lower method.update.warmup_steps or train longer",
        )
        raise InputError(problem)
    return total


def roles_in(adapted: Adapted) -> Roles:
    """Return the roles of all trained parameters."""
    return Roles(adapted.pairs, adapted.of_role(Role.UNDECAYED), adapted.of_role(Role.DECAYED), adapted.others)


def make_optimizer(recipe: Recipe, adapted: Adapted) -> Partition:
    train = recipe.train
    rates = Rates(train.learning_rate, train.head_learning_rate, train.weight_decay, train.optimizer, train.momentum)
    return build_optimizer(recipe.method, roles_in(adapted), rates)
