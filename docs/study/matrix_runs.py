"""Run one method on one problem, for many learning rates and seeds at once, with the package's own layers and rules.

Every learning rate and every seed has a pair of its own. All pairs are in one optimizer, whose rules act pair by pair,
so that their paths are those that each would have alone; a rate is a parameter group. The layers, starts, update rules
and optimizers are those that `reflora train` uses.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from matrix_problems import Family, Problem, problem_of
from reflora_cli.adapters import LoRALinear, adapt
from reflora_cli.methods.method import Method
from reflora_cli.methods.settings import Optimizer
from reflora_cli.optim import FactorPair, Roles, roles_of
from reflora_cli.optim.build import build_member, build_pair_member, build_rule
from reflora_cli.optim.groups import Rates, parameter_groups
from reflora_cli.optim.partition import Partition

FLOOR, CEILING = -12.0, 6.0
"""Bounds of log10(loss / first loss): below the first, a loss counts as zero; beyond the second, a run has diverged."""


@dataclass(frozen=True)
class Setting:
    """What all methods are compared on.

    family: the problem.  rank: r.  scale: s of s B A.  gauge_start, gauge_middle: c of A <- c A, B <- B / c before the
    first step, and once in the middle of the run.  schedule: constant, or linear, down to zero.
    """

    family: Family
    optimizer: Optimizer
    rank: int
    scale: float = 1.0
    gauge_start: float = 1.0
    gauge_middle: float = 1.0
    schedule: str = "constant"
    steps: int = 150

    @property
    def problem(self) -> str:
        """The problem in words, without the optimizer."""
        parts = [self.family.name, f"r={self.rank}", f"s={self.scale:g}"]
        parts += [f"cond {self.family.condition:g}"] * (self.family.condition != 1)
        parts += [f"A x {self.gauge_start:g}"] * (self.gauge_start != 1)
        parts += [f"A x {self.gauge_middle:g} in mid-run"] * (self.gauge_middle != 1)
        return ", ".join(parts)

    @property
    def key(self) -> str:
        """The problem and the optimizer in words: a name of the setting."""
        return f"{self.problem}, {self.optimizer}"


@dataclass(frozen=True)
class Trial:
    """The pairs of R learning rates and S seeds on a problem, and the optimizer that steps them.

    layers: the pairs of each adapted layer, R times S.  bases: the frozen weights, which a start may have moved.
    """

    problem: Problem
    layers: Sequence[Sequence[FactorPair]]
    bases: Sequence[Tensor]
    optimizer: Partition
    shape: tuple[int, int]

    def weights(self) -> list[Tensor]:
        """Return W + s B A of each layer, [R, S, out, in]."""
        found = []
        for base, pairs in zip(self.bases, self.layers, strict=True):
            A = torch.stack([pair.A for pair in pairs]).unflatten(0, self.shape)
            B = torch.stack([pair.B for pair in pairs]).unflatten(0, self.shape)
            found.append(base + pairs[0].scale * (B @ A))
        return found

    @torch.no_grad()
    def regauge(self, factor: float) -> None:
        """Multiply A by the factor and divide B by it, which leaves every weight as it is; moments stay."""
        for pairs in self.layers:
            for pair in pairs:
                pair.A.mul_(factor)
                pair.B.div_(factor)


def trial_of(setting: Setting, method: Method, rates: Sequence[float], seeds: Sequence[int]) -> Trial:
    """Return the pairs as the method starts them, and its optimizer."""
    problem = problem_of(setting.family, seeds)
    first = adapted_model(problem, method, seeds)
    models = [first, *(copy.deepcopy(first) for _ in rates[1:])]
    pairs = [
        [replace(pair, name=f"{pair.name}_rate{number}") for pair in roles_of(model).pairs]
        for number, model in enumerate(models)
    ]
    count = len(seeds)
    layers = [
        [pair for own in pairs for pair in own[layer * count : (layer + 1) * count]]
        for layer in range(len(problem.bases))
    ]
    frozen = [module.frozen.weight for module in first.modules() if isinstance(module, LoRALinear)]
    bases = [torch.stack(frozen[layer * count : (layer + 1) * count]) for layer in range(len(problem.bases))]
    optimizer = optimizer_of(method, setting.optimizer, pairs, rates)
    return Trial(problem, layers, bases, optimizer, (len(rates), count))


def adapted_model(problem: Problem, method: Method, seeds: Sequence[int]) -> nn.Module:
    """Return a model with one adapted linear layer for each layer of the problem and each seed, in float64.

    A start draws by the layer's name, so that it is the same for all methods that have this start.
    """
    model = nn.ModuleDict()
    for number, weights in enumerate(problem.bases):
        for seed, weight in zip(seeds, weights, strict=True):
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=torch.float64)
            linear.weight.data.copy_(weight)
            model[f"layer{number}_seed{seed}"] = linear
    adapt(
        model,
        rank=method.rank,
        alpha=method.alpha,
        start=method.start.kind,
        scaling=method.scaling.value,
    )
    return model.double()


def optimizer_of(
    method: Method, optimizer: Optimizer, pairs: Sequence[Sequence[FactorPair]], rates: Sequence[float]
) -> Partition:
    """Return the method's optimizer, with the pairs of each learning rate in groups of their own."""
    every = [pair for own in pairs for pair in own]
    groups = []
    for own, rate in zip(pairs, rates, strict=True):
        groups += parameter_groups(Roles(own), Rates(rate, None, 0.0, optimizer), method.lr_ratio)
    if method.update.is_optimizer:
        member = build_pair_member(method.update, groups, every)
    else:
        member = build_member(groups, Rates(rates[0], None, 0.0, optimizer))
    return Partition([member], build_rule(method.update, Roles(every)))


def losses_of(setting: Setting, method: Method, rates: Sequence[float], seeds: Sequence[int]) -> Tensor:
    """Return log10 of every loss over the first, [steps + 1, R, S], between FLOOR and CEILING.

    A run whose loss is not finite, or beyond CEILING, has diverged: it is stopped and stays at CEILING.
    """
    trial = trial_of(setting, method, rates, seeds)
    trial.regauge(setting.gauge_start)
    alive = torch.ones(trial.shape, dtype=torch.bool)
    first, rows = torch.ones(()), []
    for step in range(setting.steps + 1):
        if step == setting.steps // 2:
            trial.regauge(setting.gauge_middle)
        weights = trial.weights()
        with torch.no_grad():
            reported = trial.problem.loss(weights)
        first = reported if step == 0 else first
        row = (reported / first).log10().nan_to_num(CEILING, CEILING, FLOOR).clamp(FLOOR, CEILING)
        alive &= row < CEILING
        rows.append(torch.where(alive, row, CEILING))
        if step < setting.steps:
            set_rates(trial.optimizer, setting, step)
            advance(trial, weights, step, alive)
    return torch.stack(rows)


def set_rates(optimizer: Partition, setting: Setting, step: int) -> None:
    """Give every group its rate of this step."""
    share = 1 - step / setting.steps if setting.schedule == "linear" else 1.0
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * share


def advance(trial: Trial, weights: Sequence[Tensor], step: int, alive: Tensor) -> None:
    """Take one step with all pairs but those that have diverged, which are put to where they harm no one."""
    trial.optimizer.zero_grad(set_to_none=True)
    trial.problem.trained(weights, step).sum().backward()
    if not alive.all():
        for pairs in trial.layers:
            for pair, lives in zip(pairs, alive.flatten().tolist(), strict=True):
                if not lives:
                    nn.init.eye_(pair.A)
                    nn.init.eye_(pair.B)
                    pair.A.grad = pair.B.grad = None
    trial.optimizer.step()
