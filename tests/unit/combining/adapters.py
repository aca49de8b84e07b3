"""Adapters made by PEFT on the built-in model, and what they change of its weights, as PEFT computes it in float64."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import peft
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from reflora_cli.model.sources import find_source

PLACE = find_source("builtin:tiny-llama", None).location
TARGETS = ["q_proj", "v_proj", "down_proj"]
Changes = Mapping[str, Tensor]
"""W_eff - W [out, in], float64, by module."""


def base() -> Any:
    return AutoModelForCausalLM.from_pretrained(PLACE, dtype=torch.float32)


@cache
def base_weights() -> dict[str, Tensor]:
    return {name: own.double() for name, own in base().state_dict().items()}


def make(directory: Path, seed: int, kind: type[peft.PeftConfig] = peft.LoraConfig, **settings: Any) -> Path:
    """Write an adapter with all that it trains moved away from its start; returns its directory."""
    chosen = {"target_modules": TARGETS, "task_type": "CAUSAL_LM", **settings}
    torch.manual_seed(seed)
    model = peft.get_peft_model(base(), kind(**chosen))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    model.save_pretrained(directory)
    return directory


def changes(directory: Path) -> Changes:
    """What PEFT's own merge adds to the base's weights, for every module that is changed at all."""
    model = peft.PeftModel.from_pretrained(base().double(), directory, autocast_adapter_dtype=False)
    merged = model.merge_and_unload().state_dict()
    found = {name.removesuffix(".weight"): merged[name] - own for name, own in base_weights().items()}
    return {name: own for name, own in found.items() if own.abs().max() > 0}


def weighted(parts: Mapping[Path, float]) -> Changes:
    """The sum of what adapters change."""
    total: dict[str, Tensor] = {}
    for directory, weight in parts.items():
        for name, own in changes(directory).items():
            total[name] = total.get(name, torch.zeros_like(own)) + weight * own
    return total


def distance(found: Changes, expected: Changes) -> float:
    """The largest difference of an entry; infinite where other modules are changed."""
    if found.keys() != expected.keys():
        return float("inf")
    return max(float((own - expected[name]).abs().max()) for name, own in found.items())
