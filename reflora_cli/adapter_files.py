"""The adapter directory, in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

    base_model.model.<module>.lora_A.weight            A [r, in]
    base_model.model.<module>.lora_B.weight            B [out, r]
    base_model.model.<module>.lora_magnitude_vector    m [out], DoRA
    base_model.model.<module>.<tensor>                 modules saved whole: the head, a fresh pooler

Beside PEFT's two files `reflora.json` records the base and its weight hash, the method and the task. Reading is strict:
a missing, unexpected or misshapen tensor is an error, since a silently absent adapter still gives plausible numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from reflora_cli.adapter_config import PeftConfig, read_config, read_json
from reflora_cli.adapters.inject import Adapted
from reflora_cli.atomic import write_file, write_json
from reflora_cli.errors import InputError, Problem
from reflora_cli.paths import is_directory, is_file

PREFIX = "base_model.model."
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "reflora.json"
PEFT_BASE = "base_model_name_or_path"
"""The entry of PEFT's config that names the base."""


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter directory as read: PEFT's config, tensors by key without PEFT's prefix, our record if there is one."""

    directory: Path
    config: PeftConfig
    tensors: dict[str, Tensor]
    record: dict[str, Any]


def adapter_tensors(model: nn.Module, adapted: Adapted, saved: Sequence[str]) -> dict[str, Tensor]:
    """Every tensor of the adapter under PEFT's key, on the CPU."""
    tensors: dict[str, Tensor] = {}
    for name, layer in adapted.layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.A
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.B
        if layer.magnitude is not None:
            tensors[f"{PREFIX}{name}.lora_magnitude_vector"] = layer.magnitude
    for module in saved:
        for key, tensor in model.get_submodule(module).state_dict().items():
            tensors[f"{PREFIX}{module}.{key}"] = tensor
    return {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}


def write_adapter(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replace the adapter's weights in one atomic step."""
    write_file(directory / WEIGHTS, save(dict(tensors), metadata={"format": "pt"}))


def write_adapter_config(directory: Path, config: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """The files beside the weights; they stay the same for a whole run."""
    write_json(directory / CONFIG, config)
    write_json(directory / RECORD, record)


def read_adapter(directory: Path) -> AdapterFiles:
    """Read and check an adapter directory. Raises InputError for anything missing, damaged or not supported."""
    for name in (CONFIG, WEIGHTS):
        if not is_file(directory / name):
            there = is_directory(directory)
            what = "this directory holds no adapter" if there else "the adapter directory does not exist"
            raise InputError(Problem(what, str(directory), expected=f"{CONFIG} and {WEIGHTS}, as PEFT writes them"))
    config = read_config(directory / CONFIG)
    try:
        tensors = load_file(directory / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise InputError(Problem("the adapter's weights are damaged", str(directory / WEIGHTS), str(error))) from error
    strange = [f"{key} ({tensor.dtype})" for key, tensor in tensors.items() if tensor.dtype not in FLOATS]
    if strange:
        expected = "float32, bfloat16 or float16"
        what = "the adapter holds tensors of a dtype that adapters do not have"
        raise InputError(Problem(what, str(directory / WEIGHTS), ", ".join(strange[:3]), expected))
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise InputError(
            Problem("the adapter holds NaN or infinite values", str(directory / WEIGHTS), ", ".join(broken[:3]))
        )
    record = read_json(directory / RECORD) if is_file(directory / RECORD) else {}
    return AdapterFiles(directory, config, {key.removeprefix(PREFIX): t for key, t in tensors.items()}, record)
