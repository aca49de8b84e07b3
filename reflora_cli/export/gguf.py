"""A merged model as one GGUF file, for llama.cpp and what is built on it.

The format is that of ggml (version 3), written through the `gguf` package a tensor at a time. Matrices have the type
asked for, vectors stay float32, as llama.cpp expects them; a matrix whose rows are no multiple of 32 cannot be q8_0 and
becomes f16.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reflora_cli.errors import InputError, Problem, VerificationError
from reflora_cli.export.gguf_names import Layout, layout_of
from reflora_cli.export.gguf_tokenizer import add_tokenizer
from reflora_cli.merging.verify import difference, refuse, tolerance
from reflora_cli.tensor_files import TensorPlace, tensor_places

GgufKind = Literal["f32", "f16", "bf16", "q8_0"]
TOLERANCE: dict[str, float] = {"f32": 0.0, "f16": 2.0**-10, "bf16": 2.0**-7, "q8_0": 2.0**-7}
"""Largest error of a stored weight, as a share of the largest of its tensor."""


@dataclass(frozen=True)
class GgufFile:
    """What was written: tensors by name with llama.cpp's type."""

    path: Path
    kind: GgufKind
    tensors: int
    parameters: int


def require_gguf() -> None:
    try:
        import gguf
    except ImportError as error:
        remedy = "pip install 'reflora[gguf]'"
        raise InputError(Problem("the gguf package is not installed", found=str(error), remedy=remedy)) from error
    del gguf


def write_gguf(directory: Path, output: Path, kind: GgufKind, name: str) -> GgufFile:
    """Convert a merged transformers directory. Raises InputError for an architecture or tokenizer that cannot be.

    output: the file, which must not be seen before it is verified: write it into a directory that is not yet in place.
    """
    import gguf
    from transformers import AutoConfig, AutoTokenizer

    config: Any = AutoConfig.from_pretrained(directory)
    layout = layout_of(config, config.architectures[0])
    places = weights(directory, config)
    writer = gguf.GGUFWriter(output, layout.architecture)
    writer.add_name(name)
    add_shape(writer, config, layout, kind)
    embedding = places["model.embed_tokens.weight"].shape[0]
    add_tokenizer(writer, directory, AutoTokenizer.from_pretrained(directory), embedding)
    extra = rope_factors(config)
    if extra is not None:
        writer.add_tensor_info("rope_freqs.weight", extra.shape, extra.dtype, extra.nbytes)
    for key, place in places.items():
        stored, raw = type_of(place.shape, kind)
        width = stored_bytes(place.shape, stored)
        shape = (*place.shape[:-1], width) if raw else place.shape
        dtype = np.dtype(np.uint8) if raw else np.dtype(np.float32 if stored == "F32" else np.float16)
        size = math.prod(shape) * dtype.itemsize
        writer.add_tensor_info(layout.name(key), shape, dtype, size, gguf.GGMLQuantizationType[stored] if raw else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if extra is not None:
        writer.write_tensor_data(extra)
    for key, place in places.items():
        writer.write_tensor_data(encoded(layout.arranged(key, place.read().float()), kind))
    writer.close()
    return GgufFile(output, kind, len(places), sum(math.prod(place.shape) for place in places.values()))


def weights(directory: Path, config: Any) -> dict[str, TensorPlace]:
    """The model's tensors, without a head that is the embedding."""
    places = tensor_places(directory)
    if config.tie_word_embeddings:
        places.pop("lm_head.weight", None)
    return places


def type_of(shape: tuple[int, ...], kind: GgufKind) -> tuple[str, bool]:
    """ggml's type of a tensor, and whether it is handed over as bytes."""
    if len(shape) == 1 or kind == "f32":
        return "F32", False
    if kind == "bf16":
        return "BF16", True
    return ("Q8_0", True) if kind == "q8_0" and shape[-1] % 32 == 0 else ("F16", False)


def stored_bytes(shape: tuple[int, ...], stored: str) -> int:
    """Bytes of one row."""
    return {"BF16": 2 * shape[-1], "Q8_0": shape[-1] // 32 * 34}.get(stored, 0)


def encoded(tensor: Tensor, kind: GgufKind) -> NDArray[Any]:
    """A float32 tensor in the type that `type_of` says."""
    import gguf

    stored, _ = type_of(tuple(tensor.shape), kind)
    array = np.ascontiguousarray(tensor.numpy())
    result: NDArray[Any] = gguf.quants.quantize(array, gguf.GGMLQuantizationType[stored])
    return result


def add_shape(writer: Any, config: Any, layout: Layout, kind: GgufKind) -> None:
    """The numbers that make the model, under llama.cpp's keys."""
    import gguf

    rope = getattr(config, "rope_parameters", None) or {}
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(layout.blocks)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(layout.heads)
    writer.add_head_count_kv(layout.key_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_vocab_size(config.vocab_size)
    types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_file_type(gguf.LlamaFileType[types[kind]])


def rope_factors(config: Any) -> NDArray[np.float32] | None:
    """Llama 3's divisors of rotary frequencies [head / 2]; None without scaling. Raises InputError for another kind.

    Long wavelengths are divided by `factor`, short ones are left, those between are interpolated.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    if kind != "llama3":
        raise InputError(Problem("this rotary scaling is not converted to GGUF here", found=kind, expected="llama3"))
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    frequencies = rope["rope_theta"] ** (-np.arange(0, head, 2, dtype=np.float64) / head)
    wavelengths = 2 * np.pi / frequencies
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((rope["original_max_position_embeddings"] / wavelengths - low) / (high - low), 0, 1)
    factors: NDArray[np.float32] = (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)
    return factors


@torch.no_grad()
def verify_gguf(written: GgufFile, directory: Path) -> float:
    """Read the file back: every tensor against the merged model's, and the logits of transformers' GGUF reader.

    Returns the largest logit difference. Raises VerificationError for a tensor that is not what it should be, and for
    logits of an f32 file that differ by more than 1e-4 of the largest.
    """
    import gguf
    from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = AutoConfig.from_pretrained(directory)
    layout = layout_of(config, config.architectures[0])
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(written.path).tensors}
    for key, place in weights(directory, config).items():
        expected = layout.arranged(key, place.read().float()).numpy()
        stored = found[layout.name(key)]
        back = gguf.quants.dequantize(stored.data, stored.tensor_type).reshape(expected.shape)
        accepted = (0.0 if len(place.shape) == 1 else TOLERANCE[written.kind]) * np.abs(expected).max()
        if not np.abs(back - expected).max() <= accepted:
            raise VerificationError(Problem("a tensor was not written as it is", str(written.path), layout.name(key)))
    ids = torch.arange(3, 11)[None] % config.vocab_size
    own: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    expected_logits: Tensor = own(ids).logits
    del own
    read: Any = AutoModelForCausalLM.from_pretrained(
        written.path.parent, gguf_file=written.path.name, dtype=torch.float32
    )
    apart = difference(expected_logits[0], read(ids).logits[0])
    if written.kind == "f32":
        refuse(apart, tolerance(expected_logits, torch.float32), str(written.path), "the GGUF file")
    return apart.largest


def modelfile(name: str, end: str | None) -> str:
    """An Ollama `Modelfile` beside the GGUF file `name`; Ollama takes the chat template from the file itself."""
    stop = f'PARAMETER stop "{end}"\n' if end else ""
    return f"FROM ./{name}\nPARAMETER temperature 0\n{stop}"
