"""Know the architectures on which PEFT does not read an adapter as its config says, and the form in which it does.

transformers 5 keeps a mixture's experts as stacked weights where their checkpoints have a linear layer for each. For
families of such models PEFT (since 0.19) moves targets with the names of those layers to the stacked weights, and
passes over the factors of dense layers and shared experts of the same names. If these are named as parameters, by their
full paths, PEFT leaves them where they are. In this form it knows neither DoRA nor dropout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reflora_cli.adapter_io.lora import PEFT_TYPE
from reflora_cli.adapters.dora import DoRALinear
from reflora_cli.adapters.layer import Adapter
from reflora_cli.adapters.virtual import VirtualTokens

EXPERT_NAMES = {"mixtral": ("w1", "w2", "w3"), "qwen2_moe": ("gate_proj", "up_proj", "down_proj")}
"""The names that PEFT takes for those of experts, by family of architectures."""
OF_DECODERS = (
    "do not work with a decoder that classifies: with a prompt, PEFT reads each row at its last position even if it is "
    "padding, and it gives no prefix to classifiers"
)
"""What PEFT does there instead of reading them."""
MAMBA_TYPES = ("falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h")
MAMBA_NAMES = ("out_proj", "conv1d")
"""Modules of Mamba's architectures that PEFT refuses to adapt."""


def readable(config: Mapping[str, Any], model: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return an adapter's config in the form in which PEFT reads adapters on the modules `names`, if there is one."""
    modules = list(names)
    moved = taken_for_experts(model, modules)
    if not moved or config.get("use_dora") or config["peft_type"] != PEFT_TYPE:
        return dict(config)
    return {
        **config,
        "target_modules": [name for name in modules if name not in moved],
        "target_parameters": [f"{name}.weight" for name in moved],
        "lora_dropout": 0.0,
    }


def unreadable(model: Any, layers: Mapping[str, Adapter]) -> str:
    """Say what PEFT does with adapter layers, by module name, instead of reading them; empty where it reads them."""
    if any(isinstance(layer, VirtualTokens) and layer.is_causal for layer in layers.values()):
        return "" if model.can_generate() else f"PEFT's virtual tokens {OF_DECODERS}"
    kind, modules = model_type(model), [name for name, layer in layers.items() if layer.peft_type == PEFT_TYPE]
    is_dora = any(isinstance(layer, DoRALinear) for layer in layers.values())
    if is_dora and (moved := taken_for_experts(model, modules)):
        found = ", ".join(sorted({last_part(name) for name in moved}))
        return f"PEFT treats {found} of a {kind} model as experts and drops DoRA of other layers with these names"
    refused = {last_part(name) for name in modules} & set(MAMBA_NAMES) if kind in MAMBA_TYPES else set()
    return f"PEFT refuses adapters on {', '.join(sorted(refused))} of a {kind} model" if refused else ""


def taken_for_experts(model: Any, names: Iterable[str]) -> list[str]:
    """Return those of the modules that PEFT takes for experts."""
    taken = EXPERT_NAMES.get(family(model_type(model)), ())
    return [name for name in names if last_part(name) in taken]


def family(kind: str) -> str:
    """Return the architecture whose checkpoints name experts as this one's do, as transformers knows it; or an empty
    text.
    """
    try:
        from transformers.conversion_mapping import _MODEL_TO_CONVERSION_PATTERN as families
    except ImportError:  # it is private, and PEFT reads it where there is one
        return ""
    return "mixtral" if kind == "mixtral" else str(families.get(kind, ""))


def model_type(model: Any) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", ""))


def last_part(name: str) -> str:
    return name.rpartition(".")[2]
