"""Measure whether the path of BA depends on how its first value is factored: RefLoRA's theorem, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from matrix_plan import ADAMW, SGD, Variant, timed
from matrix_problems import Family, frame, generator, normal
from matrix_runs import Setting, Trial, optimizer_of, trial_of
from reflora_cli.methods.settings import Optimizer

SEEDS = range(200, 205)
RATES = {ADAMW: 0.01, SGD: 0.05}
GAUGES = ("A x 10", "rotation", "any, cond 10")
EXACT = 1e-4
"""Damping below that from which the package computes in single precision."""
VARIANTS: dict[Optimizer, dict[str, Variant]] = {
    SGD: {
        "lora": Variant("lora"),
        "lora+": Variant("lora+"),
        "preclora": timed("preclora", warmup_steps=0, absolute_damping=1e-6),
        "scaled-gd": timed("scaled-gd", warmup_steps=0, damping=EXACT),
        "lora-pro": Variant("lora-pro", {"damping": EXACT}),
        "altlora": Variant("altlora", {"damping": EXACT}),
        "reflora-s": timed("reflora-s", warmup_steps=0),
        "balanced": timed("balanced", warmup_steps=0),
        "reflora": timed("reflora", warmup_steps=0, damping=EXACT),
        "reflora, default damping": timed("reflora", warmup_steps=0),
        "reflora, damping 0": timed("reflora", warmup_steps=0, damping=0.0),
    },
    ADAMW: {
        "lora": Variant("lora"),
        "scaled-gd": timed("scaled-gd", warmup_steps=0, damping=EXACT),
        "lora-rite": Variant("lora-rite", {"damping": EXACT}),
        "reflora-s": timed("reflora-s", warmup_steps=0),
        "balanced": timed("balanced", warmup_steps=0),
        "reflora": timed("reflora", warmup_steps=0, damping=EXACT),
    },
}


def gauge(kind: str, seed: int, rank: int) -> Tensor:
    """Return T [r, r] of (A, B) -> (T^-1 A, B T)."""
    draw = generator(seed + 1000)
    match kind:
        case "A x 10":
            return torch.eye(rank, dtype=torch.float64) / 10
        case "rotation":
            return frame(draw, rank, rank)
        case _:
            spectrum = torch.logspace(-0.5, 0.5, rank, dtype=torch.float64)
            return frame(draw, rank, rank) * spectrum @ frame(draw, rank, rank).mT


def deviation(variant: Variant, optimizer: Optimizer, kind: str, steps: int = 30) -> float | None:
    """Return how far two paths of BA get from each other that begin at one BA, factored in two ways, as a share of the
    length of the way: the largest over the steps and seeds, with two digits. None if a path diverges."""
    setting = Setting(Family("factorization", 4, 3, size=20), optimizer, 4)
    identity = torch.eye(setting.rank, dtype=torch.float64)
    gauges = [gauge(kind, seed, setting.rank) for seed in SEEDS]
    paths = [path(begun(setting, variant, own), steps) for own in ([identity] * len(gauges), gauges)]
    length = (paths[0] - paths[0][0]).norm(dim=(-2, -1)).amax(0)
    apart = (paths[0] - paths[1]).norm(dim=(-2, -1)).amax(0) / length
    return float(f"{apart.max():.2g}") if apart.isfinite().all() else None


def begun(setting: Setting, variant: Variant, gauges: Sequence[Tensor]) -> Trial:
    """Return pairs T^-1 A and B T, with A and B drawn alike for all methods, neither of them zero, and a T for each
    seed. The optimizer is made when they are there: a rule may act at once."""
    method, rates = variant.method(setting), [RATES[setting.optimizer]]
    trial = trial_of(setting, method, rates, SEEDS)
    with torch.no_grad():
        for pair, seed, T in zip(trial.layers[0], SEEDS, gauges, strict=True):
            draw = generator(seed + 500)
            pair.A.copy_(torch.linalg.solve(T, normal(draw, *pair.A.shape) / pair.A.shape[1] ** 0.5))
            pair.B.copy_(normal(draw, *pair.B.shape) / pair.B.shape[0] ** 0.5 @ T)
    return replace(trial, optimizer=optimizer_of(method, setting.optimizer, trial.layers, rates))


def path(trial: Trial, steps: int) -> Tensor:
    """Return BA before the first and after each step, [steps + 1, S, out, in]."""
    weights = trial.weights()
    found = [weights[0].detach()[0]]
    for step in range(steps):
        trial.optimizer.zero_grad(set_to_none=True)
        trial.problem.trained(weights, step).sum().backward()
        trial.optimizer.step()
        weights = trial.weights()
        found.append(weights[0].detach()[0])
    return torch.stack(found)
