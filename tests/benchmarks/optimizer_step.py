"""Whole optimizer steps of many pairs: AdamW, AdamW with a rule around it, and optimizers of pairs.

    python -m tests.benchmarks.optimizer_step [--settings deberta llama7b square] [--rounds 9] [--device cpu]

Pairs and settings are those of `reflora_step`; the ways take turns, and the first round warms up. Dense moments, two
matrices as large as each adapted weight, are left out where these are too large.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from reflora_cli.console.output import show_table
from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.balanced import BalancedRule, keep_moments, transport_moments
from reflora_cli.optim.lora_pro import LoRAProRule
from reflora_cli.optim.lora_pro_dense import DenseLoRAProMember
from reflora_cli.optim.lora_rite import LoRARITEMember
from reflora_cli.optim.pair_adamw import PairAdamW
from reflora_cli.optim.reflora import RefLoRARule
from reflora_cli.optim.rule import PlainRule, UpdateRule
from reflora_cli.optim.stiefel import StiefelRule, by_geodesic, by_polar
from tests.benchmarks.reflora_step import SETTINGS, arguments, make_pairs, wait


class Step(Protocol):
    """What can take a step."""

    def step(self) -> Any: ...


def groups(pairs: Sequence[FactorPair]) -> list[dict[str, Any]]:
    return [{"params": [factor for pair in pairs for factor in (pair.A, pair.B)], "lr": 1e-4, "weight_decay": 0.01}]


def factors(pairs: Sequence[FactorPair]) -> list[nn.Parameter]:
    """Return A and B of all pairs: as frames, a rule of which begins by making them orthonormal."""
    return [factor for pair in pairs for factor in (pair.A, pair.B)]


def around(rule_of: Callable[[Sequence[FactorPair]], UpdateRule]) -> Callable[[Sequence[FactorPair]], Step]:
    """Return what makes an AdamW with that rule around it."""
    return lambda pairs: PairAdamW(groups(pairs), rule_of(pairs))


DENSE, LARGEST_DENSE = "lora-pro, dense", 2**28
"""The optimizer with moments of adapted weights, and the most elements of these for which it is measured."""
OPTIMIZERS: dict[str, Callable[[Sequence[FactorPair]], Step]] = {
    "adamw": around(lambda pairs: PlainRule()),
    "reflora": around(lambda pairs: RefLoRARule(pairs, warmup=0, interval=1, damping=1e-3)),
    "balanced": around(lambda pairs: BalancedRule(pairs, 0, 1, keep_moments)),
    "balanced, transport": around(lambda pairs: BalancedRule(pairs, 0, 1, transport_moments)),
    "stiefel": around(lambda pairs: StiefelRule(factors(pairs), None, by_polar)),
    "stiefel, geodesic": around(lambda pairs: StiefelRule(factors(pairs), None, by_geodesic)),
    "lora-pro": around(lambda pairs: LoRAProRule(pairs, damping=1e-3)),
    DENSE: lambda pairs: DenseLoRAProMember(groups(pairs), pairs, damping=1e-3),
    "lora-rite": lambda pairs: LoRARITEMember(groups(pairs), pairs, damping=1e-3),
}


def measure(setting: str, rounds: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of every round by optimizer."""
    weights = sum(out * width for out, width in SETTINGS[setting][1])
    names = [name for name in OPTIMIZERS if name != DENSE or weights <= LARGEST_DENSE]
    made = {name: make_pairs(setting, device) for name in names}
    optimizers = {name: OPTIMIZERS[name](made[name][0]) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(rounds + 1):
        for name, optimizer in optimizers.items():
            for pair, (gA, gB) in zip(*made[name], strict=True):
                pair.A.grad, pair.B.grad = gA.clone(), gB.clone()
            wait(device)
            begin = time.perf_counter()
            optimizer.step()
            wait(device)
            seconds[name].append(time.perf_counter() - begin)
    return {name: own[1:] for name, own in seconds.items()}


def main() -> None:
    chosen = arguments()
    rows, figures = [], {}
    for setting in chosen.settings:
        found = figures[setting] = measure(setting, chosen.rounds, chosen.device)
        for name, own in found.items():
            spread = f"{1e3 * min(own):.2f} to {1e3 * max(own):.2f}"
            rows.append((setting, name, f"{1e3 * statistics.median(own):.2f}", spread))
    title = f"optimizer steps, {torch.get_num_threads()} threads, {chosen.device}"
    show_table(title, ("modules", "optimizer", "ms", "spread"), rows)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
