"""From a recipe to everything a training run needs, checked, before anything is written."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from reflora_cli.adapters.inject import Adapted, inject, stacked_experts
from reflora_cli.data.batches import StepSampler
from reflora_cli.environment import describe
from reflora_cli.errors import InputError, Problem
from reflora_cli.methods import Update
from reflora_cli.model.base import Base, check_length, parameter_count
from reflora_cli.model.labels import refuse_foreign_head
from reflora_cli.model.pick import load_base
from reflora_cli.model.precision import Compute, is_emulated
from reflora_cli.model.quantize import bits_per_weight, packed_kind
from reflora_cli.objectives.objective import Objective
from reflora_cli.objectives.pick import encode_examples, load_examples, make_objective
from reflora_cli.objectives.rows import Rows, probe_examples
from reflora_cli.optim.build import Rates, build_optimizer
from reflora_cli.optim.pair_adamw import PairOptimizer
from reflora_cli.recipe import ModelSection, Recipe
from reflora_cli.tasks.base import Example, PromptExample, Task
from reflora_cli.tasks.registry import find_task


@dataclass(frozen=True)
class Job:
    """A training run, ready to start.

    saved: modules that travel with the adapter, trained or not. probes: rows to compare forms of the model on later.
    """

    recipe: Recipe
    task: Task
    base: Base
    adapted: Adapted
    saved: tuple[str, ...]
    rows: Rows
    objective: Objective[Any]
    sampler: StepSampler
    optimizer: PairOptimizer
    total_steps: int
    probes: list[Example | PromptExample]
    environment: dict[str, object]

    @property
    def compute(self) -> Compute:
        return self.objective.compute

    @property
    def emulates(self) -> bool:
        return is_emulated(self.compute.device, self.compute.dtype)

    def packing(self) -> str:
        bits = bits_per_weight(self.base.model)
        return "" if bits is None else f", {packed_kind(self.base.model)} ({bits:.2f} bits per weight)"

    def left_out(self) -> dict[str, str]:
        """What a user of a mixture of experts would not expect."""
        experts = stacked_experts(self.base.model)
        if not experts:
            return {}
        share = sum(experts.values()) / parameter_count(self.base.model)
        return {"not adapted": f"{len(experts)} stacked weights of experts, {share:.0%} of all parameters"}

    def facts(self) -> dict[str, str]:
        """What the user should see before the first step."""
        trained = sum(parameter.numel() for parameter in self.adapted.parameters.values())
        total = parameter_count(self.base.model)
        matches = ", ".join(f"{pattern} ({count})" for pattern, count in self.adapted.matches.items())
        method = self.recipe.method
        return {
            "model": f"{self.base.source.name}, {self.compute.dtype_name}, {self.compute.device}{self.packing()}",
            **({"slow": "this CPU emulates half precision; float32 is many times faster"} if self.emulates else {}),
            "method": f"{method.label}, rank {method.rank}, alpha {method.alpha:g}",
            "targets": matches,
            **self.left_out(),
            "trained whole": ", ".join(self.base.trainable(method)) or "nothing",
            "parameters": f"{trained:,} trained of {total:,} ({trained / total:.2%})",
            "task": f"{self.task.name}, {len(self.rows.training):,} training rows",
            **(
                {"dropped": f"{self.rows.dropped:,} rows whose answer max_length cuts off"} if self.rows.dropped else {}
            ),
            "steps": f"{self.total_steps:,} of {self.recipe.train.batch_size} rows",
        }


def prepare(recipe: Recipe, compute: Compute, section: ModelSection) -> Job:
    """Load, check and build. section: the recipe's base, with the place where it is.

    Raises InputError for whatever the user can mend.
    """
    task = find_task(recipe.task.name)
    examples = load_examples(recipe, task)
    base = load_base(section, section.revision, task, compute.dtype, recipe.train.seed)
    # A run is known by what its recipe says, wherever that was found this time.
    name = recipe.model.name if base.source.is_local else base.source.name
    base = replace(base, source=replace(base.source, name=name, revision=recipe.model.revision))
    refuse_foreign_head(base, task)
    check_length(base, recipe.task.max_length)
    rows = encode_examples(recipe, task, base, examples)
    trainable, saved = base.trainable(recipe.method), base.saved(recipe.method)
    adapted = inject(base.model, recipe.method, trainable, saved, recipe.train.seed)
    lengths = [len(row.input_ids) for row in rows.training] if recipe.train.group_by_length else []
    sampler = StepSampler(len(rows.training), recipe.train.batch_size, recipe.train.seed, lengths)
    total = total_steps(recipe, sampler)
    base.place(compute.device)
    if recipe.train.gradient_checkpointing:
        base.recompute_activations()
    return Job(
        recipe=recipe,
        task=task,
        base=base,
        adapted=adapted,
        saved=saved,
        rows=rows,
        objective=make_objective(recipe, task, base, compute),
        sampler=sampler,
        optimizer=make_optimizer(recipe, adapted, compute),
        total_steps=total,
        probes=probe_examples(examples),
        environment=describe(base, examples, compute.device),
    )


def total_steps(recipe: Recipe, sampler: StepSampler) -> int:
    """Optimizer steps of the whole run. Raises InputError when RefLoRA's warm-up would outlast it."""
    train, method = recipe.train, recipe.method
    epochs = train.epochs or 0.0
    total = train.steps or max(1, math.ceil(epochs * sampler.steps_per_epoch))
    if method.update is not Update.PLAIN and method.refactor.warmup_steps >= total:
        problem = Problem(
            f"the run ends before {method.update} begins: it would be plain training under another name",
            where="method.refactor.warmup_steps",
            found=f"{method.refactor.warmup_steps} warm-up steps in a run of {total}",
            expected=f"fewer than {total}",
            remedy="lower method.refactor.warmup_steps or train longer",
        )
        raise InputError(problem)
    return total


def make_optimizer(recipe: Recipe, adapted: Adapted, compute: Compute) -> PairOptimizer:
    train = recipe.train
    rates = Rates(train.learning_rate, train.head_learning_rate, train.weight_decay, train.optimizer.value)
    half = compute.dtype.itemsize < 4
    return build_optimizer(recipe.method, adapted.pairs, adapted.magnitudes, adapted.others, rates, half_precision=half)
