"""Repeat the figure of RefLoRA's paper on matrix factorization: gradient descent at two rates, without tuning.

The paper's sizes and starts are not public. These ones, 100 x 100 of rank 5 with singular values from 21 to 28, A
normal and B normal times 0.1, begin at the figure's loss.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from matrix_plan import SGD, Variant, timed
from matrix_problems import Family, generator, normal
from matrix_runs import Setting, advance, optimizer_of, trial_of

RATES, SEEDS, STEPS, DIVERGED = (0.01, 0.03), range(300, 305), 100, 1e12
REACHED = 1e-3
METHODS = {
    "lora": Variant("lora"),
    "scaled-gd": timed("scaled-gd", warmup_steps=0),
    "reflora": timed("reflora", warmup_steps=0),
    "reflora-s": timed("reflora-s", warmup_steps=0),
}


def published_losses(variant: Variant, steps: int = STEPS) -> Tensor:
    """Return losses [steps + 1, rate, seed], not divided by the first; DIVERGED from where one is beyond that."""
    setting = Setting(Family("published factorization", 5, size=100), SGD, 5)
    method = variant.method(setting)
    trial = trial_of(setting, method, RATES, SEEDS)
    with torch.no_grad():
        for number, pair in enumerate(trial.layers[0]):
            draw = generator(SEEDS[number % len(SEEDS)] + 500)
            pair.A.copy_(normal(draw, *pair.A.shape))
            pair.B.copy_(normal(draw, *pair.B.shape) * 0.1)
    by_rate = [trial.layers[0][n * len(SEEDS) : (n + 1) * len(SEEDS)] for n in range(len(RATES))]
    trial = replace(trial, optimizer=optimizer_of(method, SGD, by_rate, RATES))
    alive, rows = torch.ones(trial.shape, dtype=torch.bool), []
    for step in range(steps + 1):
        weights = trial.weights()
        with torch.no_grad():
            losses = trial.problem.loss(weights)
        alive &= losses.isfinite() & (losses < DIVERGED)
        rows.append(torch.where(alive, losses, DIVERGED))
        if step < steps:
            advance(trial, weights, step, alive)
    return torch.stack(rows)


def published_row(name: str, steps: int = STEPS) -> dict[str, object]:
    """Return a method's medians over seeds, step by step, its final losses and its steps to REACHED, by rate."""
    losses = published_losses(METHODS[name], steps)
    reached = [
        [int((own <= REACHED).nonzero()[0]) if (own <= REACHED).any() else None for own in of_rate.T]
        for of_rate in losses.transpose(0, 1)
    ]
    return {
        "variant": name,
        "rates": list(RATES),
        "curves": [[float(f"{value:.4g}") for value in own] for own in losses.quantile(0.5, dim=2).T.tolist()],
        "final": [[float(f"{value:.4g}") for value in own] for own in losses[-1].tolist()],
        "reached": reached,
    }
