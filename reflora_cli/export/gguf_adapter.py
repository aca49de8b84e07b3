"""Write a LoRA in llama.cpp's adapter format.

At run time llama.cpp scales B A by alpha / rank, with one alpha for the whole adapter and every tensor's own rank. So B
of each module is multiplied by s rank / alpha, which gives the right result for rank-stabilized scaling and for ranks
and alphas that differ from module to module. DoRA's magnitudes and modules trained whole have no place in the format
and are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from reflora_cli.adapter_io.files import AdapterFiles
from reflora_cli.adapter_io.lora import LoraConfig, lora_config
from reflora_cli.export.gguf_names import Layout, layout_of
from reflora_cli.ground.errors import InputError, Problem, VerificationError

REMEDY = "merge it instead: reflora export RUN --format gguf"


def refuse_unrepresentable(files: AdapterFiles) -> None:
    """Raises InputError for what llama.cpp's adapters cannot hold."""
    where = str(files.directory)
    if not isinstance(files.config, LoraConfig):
        what = "llama.cpp supports LoRA adapters only"
        raise InputError(Problem(what, where, files.config.peft_type, remedy=REMEDY))
    if lora_config(files).use_dora:
        raise InputError(Problem("llama.cpp's adapters cannot hold DoRA's magnitudes", where, remedy=REMEDY))
    if files.config.modules_to_save:
        found = ", ".join(files.config.modules_to_save)
        what = "llama.cpp's adapters cannot hold modules that were trained whole"
        raise InputError(Problem(what, where, found, remedy=REMEDY))


def write_gguf_adapter(files: AdapterFiles, base: Any, output: Path) -> int:
    """Write the adapter of a transformers model; returns the number of adapted modules.

    Raises InputError for what cannot be represented, VerificationError when the file, as read back, does not give s B
    A.
    """
    import gguf

    refuse_unrepresentable(files)
    config: Any = base.config
    layout = layout_of(config, type(base).__name__)
    modules = adapted_modules(files, base, layout)
    writer = gguf.GGUFWriter(output, layout.architecture.name)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", lora_config(files).lora_alpha)
    for module in modules:
        A, B = (files.tensors[f"{module}.lora_{factor}.weight"].float() for factor in "AB")
        name = layout.name(f"{module}.weight")
        scaled = layout.permuted(f"{module}.weight", B * relative_scale(files, module, A.shape[0]))
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(A.numpy()))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(scaled.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    verify(files, modules, layout, output)
    return len(modules)


def adapted_modules(files: AdapterFiles, base: Any, layout: Layout) -> list[str]:
    """Return the adapted modules, in order. Raises InputError for one that llama.cpp does not adapt.

    llama.cpp takes a pair of factors for a matrix that the base's own GGUF file has, and no other tensors. A head that
    is the embedding is not in the file, and the embedding's factors would be read transposed.
    """
    modules = sorted({key.rpartition(".lora_")[0] for key in files.tensors if ".lora_" in key})
    pairs = {f"{module}.lora_{factor}.weight" for module in modules for factor in "AB"}
    embedding: Any = base.get_input_embeddings()
    for key in (*sorted(set(files.tensors) - pairs), *sorted(pairs - set(files.tensors))):
        what = "llama.cpp's adapters cannot hold this tensor"
        raise InputError(Problem(what, str(files.directory), key, "lora_A and lora_B of linear layers", REMEDY))
    for module in modules:
        layer = base.get_submodule(module)
        if layer is embedding or getattr(layer, "weight", None) is embedding.weight:
            what = "llama.cpp does not adapt the embedding, nor a head that is tied to it"
            raise InputError(Problem(what, str(files.directory), module, "linear layers of the base's GGUF", REMEDY))
        layout.name(f"{module}.weight")
    return modules


def relative_scale(files: AdapterFiles, module: str, rank: int) -> float:
    """Return s rank / alpha, by which B is multiplied so that alpha / rank makes it s."""
    config = lora_config(files)
    return config.scale_of(module, rank) * rank / config.lora_alpha


def verify(files: AdapterFiles, modules: list[str], layout: Layout, output: Path) -> None:
    """Read the file back as llama.cpp does and compare every update with s B A."""
    import gguf

    found = {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in gguf.GGUFReader(output).tensors}
    for module in modules:
        name = layout.name(f"{module}.weight")
        a, b = found[f"{name}.lora_a"], found[f"{name}.lora_b"]
        A, B = (files.tensors[f"{module}.lora_{factor}.weight"].float() for factor in "AB")
        scale = lora_config(files).scale_of(module, A.shape[0])
        expected = layout.permuted(f"{module}.weight", scale * B @ A)
        update = lora_config(files).lora_alpha / a.shape[0] * b @ a
        if not torch.allclose(update, expected, atol=1e-5, rtol=1e-4):
            raise VerificationError(Problem("the adapter was not written as it is", str(output), found=module))
