"""Whole optimizer steps of many pairs: AdamW, AdamW with RefLoRA around it, and LoRA-RITE.

    python -m tests.benchmarks.optimizer_step [--settings deberta llama7b square] [--rounds 9] [--device cpu]

Pairs and settings are those of `reflora_step`; the ways take turns, and the first round warms up.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from reflora_cli.console.output import show_table
from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.lora_rite import LoRARITEMember
from reflora_cli.optim.pair_adamw import PairAdamW
from reflora_cli.optim.reflora import RefLoRARule
from reflora_cli.optim.rule import PlainRule
from tests.benchmarks.reflora_step import arguments, make_pairs, wait


def groups(pairs: Sequence[FactorPair]) -> list[dict[str, Any]]:
    return [{"params": [factor for pair in pairs for factor in (pair.A, pair.B)], "lr": 1e-4, "weight_decay": 0.01}]


def measure(setting: str, rounds: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of every round by optimizer."""
    made = {name: make_pairs(setting, device) for name in ("adamw", "reflora", "lora-rite")}
    plain, around, rite = (made[name][0] for name in made)
    optimizers = {
        "adamw": PairAdamW(groups(plain), PlainRule()),
        "reflora": PairAdamW(groups(around), RefLoRARule(around, warmup=0, interval=1, damping=1e-3)),
        "lora-rite": LoRARITEMember(groups(rite), rite, damping=1e-3),
    }
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
