"""The kinds of adapters whose files are read and written, by PEFT's name for each: one file and one entry here.

A config is written for an adapted model, and read strictly: settings that would be misread are refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from reflora_cli.adapter_io.adalora import AdaloraFormat
from reflora_cli.adapter_io.adapter_format import AdapterFormat
from reflora_cli.adapter_io.bottleneck import BottleneckFormat
from reflora_cli.adapter_io.config import NamedBase, PeftConfig, TaskType, common_entries, read_json
from reflora_cli.adapter_io.ia3 import IA3Format
from reflora_cli.adapter_io.in_place import InPlaceFormat
from reflora_cli.adapter_io.lora import LoraFormat
from reflora_cli.adapter_io.peft_rules import readable
from reflora_cli.adapter_io.vera import VeraFormat
from reflora_cli.adapter_io.virtual import PrefixFormat, PromptFormat
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.layers import IN_PLACE
from reflora_cli.methods.method import Method

FORMATS: dict[str, AdapterFormat] = {
    own.peft_type: own
    for own in (
        LoraFormat(),
        VeraFormat(),
        InPlaceFormat(),
        AdaloraFormat(),
        IA3Format(),
        BottleneckFormat(),
        PromptFormat(),
        PrefixFormat(),
    )
}
COMMON = {
    "target_modules": "a list of names, or a regular expression",
    "target_parameters": "a list of names, or null",
    "modules_to_save": "a list of names, or null",
    "bias": "'none'",
}
"""The values that settings of any adapter may have, where they are not just true or false."""


def format_of(adapted: Adapted) -> AdapterFormat:
    """Return the format of a model's adapter: all its layers are of one kind."""
    kinds = (layer.peft_type for layer in adapted.layers.values())
    return FORMATS[next(kinds, IN_PLACE)]


def adapter_config(
    model: nn.Module,
    adapted: Adapted,
    method: Method,
    saved: Sequence[str],
    base: NamedBase,
    task_type: TaskType,
) -> dict[str, Any]:
    """Return `adapter_config.json` for an adapter of `method`. saved: the modules that are saved whole."""
    own = format_of(adapted)
    config = {
        "peft_type": own.peft_type,
        **common_entries(model, adapted, saved, base, task_type),
        **own.entries(adapted, method),
    }
    return readable({key: config[key] for key in config if key not in own.config.left_out}, model, adapted.layers)


def read_config(path: Path) -> PeftConfig:
    """Return PEFT's config of an adapter.

    Raises InputError: first for another kind of adapter, then for settings that are not supported here, then for values
    that are not valid.
    """
    settings = read_json(path)
    kind = settings.get("peft_type")
    own = FORMATS.get(kind) if isinstance(kind, str) else None
    if own is None:
        known = ", ".join(map(repr, FORMATS))
        raise InputError(Problem("the kind of adapter is not supported", f"{path}, peft_type", repr(kind), known))
    if refused := own.unsupported(settings):
        what = "a setting of the adapter is not supported"
        raise InputError(*(Problem(what, str(path), found, remedy=remedy) for found, remedy in refused.items()))
    try:
        return own.config.model_validate(settings)
    except ValidationError as error:
        wrong = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors())
        expected = {**COMMON, **own.expected}
        problems = (
            Problem(
                f"{key} is not what PEFT writes" if key in settings else f"the adapter's config has no {key}",
                f"{path}, {key}",
                found=json.dumps(settings.get(key))[:80],
                expected=expected.get(key, "true or false"),
            )
            for key in wrong
        )
        raise InputError(*problems) from error
