"""A LoRA in llama.cpp's adapter format.

At run time llama.cpp scales B A by alpha / rank, with one alpha for the whole adapter and every tensor's own rank. So B
of each module is multiplied by s rank / alpha, which puts rank-stabilized scaling and ranks and alphas that differ from
module to module right. What has no place in the format is refused: DoRA's magnitudes, modules trained whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from reflora_cli.adapter_config import pattern_value
from reflora_cli.adapter_files import AdapterFiles
from reflora_cli.errors import InputError, Problem, VerificationError
from reflora_cli.export.gguf_names import layout_of
from reflora_cli.factors import scaling_factor
from reflora_cli.methods import Scaling

REMEDY = "merge it instead: reflora export RUN --format gguf"


def refuse_unrepresentable(files: AdapterFiles) -> None:
    """Raises InputError for what llama.cpp's adapters cannot hold."""
    where = str(files.directory)
    if files.config.use_dora:
        raise InputError(Problem("llama.cpp's adapters have no place for DoRA's magnitudes", where, remedy=REMEDY))
    if files.config.modules_to_save:
        found = ", ".join(files.config.modules_to_save)
        what = "llama.cpp's adapters have no place for modules trained whole"
        raise InputError(Problem(what, where, found, remedy=REMEDY))


def write_gguf_adapter(files: AdapterFiles, config: Any, class_name: str, output: Path) -> int:
    """Write the adapter of a base with transformers' `config`; the number of adapted modules.

    Raises InputError for what cannot be represented, VerificationError when what is read back is not s B A.
    """
    import gguf

    refuse_unrepresentable(files)
    layout = layout_of(config, class_name)
    writer = gguf.GGUFWriter(output, layout.architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(files.config.lora_alpha))
    modules = sorted(key.removesuffix(".lora_A.weight") for key in files.tensors if key.endswith(".lora_A.weight"))
    for module in modules:
        A, B = (files.tensors[f"{module}.lora_{factor}.weight"].float() for factor in "AB")
        name = layout.name(f"{module}.weight")
        scaled = layout.arranged(f"{module}.weight", B * relative_scale(files, module, A.shape[0]))
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(A.numpy()))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(scaled.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    verify(files, modules, layout, output)
    return len(modules)


def relative_scale(files: AdapterFiles, module: str, rank: int) -> float:
    """s rank / alpha: what B must carry so that alpha / rank makes it s."""
    return scale_of(files, module, rank) * rank / files.config.lora_alpha


def scale_of(files: AdapterFiles, module: str, rank: int) -> float:
    """s of one module."""
    config = files.config
    alpha = pattern_value(config.alpha_pattern, module, config.lora_alpha)
    return scaling_factor(Scaling.RSLORA if config.use_rslora else Scaling.STANDARD, alpha, rank)


def verify(files: AdapterFiles, modules: list[str], layout: Any, output: Path) -> None:
    """Read the file back as llama.cpp does and compare every update with s B A."""
    import gguf

    found = {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in gguf.GGUFReader(output).tensors}
    for module in modules:
        name = layout.name(f"{module}.weight")
        a, b = found[f"{name}.lora_a"], found[f"{name}.lora_b"]
        A, B = (files.tensors[f"{module}.lora_{factor}.weight"].float() for factor in "AB")
        scale = scale_of(files, module, A.shape[0])
        expected = layout.arranged(f"{module}.weight", scale * B @ A)
        update = files.config.lora_alpha / a.shape[0] * b @ a
        if not torch.allclose(update, expected, atol=1e-5, rtol=1e-4):
            raise VerificationError(Problem("the adapter was not written as it is", str(output), found=module))
