"""Write a merged model as one GGUF file, for llama.cpp and what is built on it.

The format is that of ggml (version 3), written through the `gguf` package a tensor at a time. Matrices have the type
asked for, vectors stay float32, as llama.cpp expects them; a matrix whose rows are no multiple of 32 cannot be q8_0 and
becomes f16.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reflora_cli.adapter_io.tensor_files import TensorPlace, tensor_places
from reflora_cli.console.reporter import SILENT, Reporter, Tell, Work, counted
from reflora_cli.export.gguf_config import write_shape
from reflora_cli.export.gguf_names import Layout, layout_of
from reflora_cli.export.gguf_rope import rope_of
from reflora_cli.export.gguf_tokenizer import Converted
from reflora_cli.export.gguf_tokenizer_fields import write_tokenizer
from reflora_cli.export.gguf_tokens import SWALLOWING_NAMES
from reflora_cli.export.gguf_types import GgufType
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.auto import load_config

LARGEST_HALF = 65504.0
TELLING_NAMES = (*SWALLOWING_NAMES, "modern-bert")
"""Parts of a model's name from which llama.cpp concludes that special tokens swallow spaces."""
EMBEDDINGS, HEAD = ("model.embed_tokens.weight", "transformer.wte.weight"), "lm_head.weight"
POSITIONS = "position_embd.weight"
"""A table that llama.cpp keeps in float32."""


@dataclass(frozen=True)
class GgufFile:
    """A written file. kind: the type of its matrices."""

    path: Path
    kind: GgufType
    tensors: int
    parameters: int


@dataclass(frozen=True)
class GgufRequest:
    """A conversion to make. directory: the merged model. output: the file. kind: a type that is written here. name:
    the name that llama.cpp shows.

    The file must not be seen before it is verified: write it into a directory that is not yet in place.
    """

    directory: Path
    output: Path
    kind: GgufType
    tokenizer: Converted
    chat_template: str
    name: str = ""


def write_gguf(request: GgufRequest, reporter: Reporter = SILENT) -> GgufFile:
    """Convert a merged transformers directory. Raises InputError for a model that llama.cpp would compute otherwise."""
    import gguf

    kind = request.kind
    config: Any = load_config(request.directory)
    layout = layout_of(config, config.architectures[0])
    places = weights(request.directory, config)
    writer = gguf.GGUFWriter(request.output, layout.architecture.name)
    with closing(writer):
        if name := shown_name(request):
            writer.add_name(name)
        writer.add_file_type(gguf.LlamaFileType[kind.file_type])
        write_shape(writer, config, layout.architecture)
        write_tokenizer(writer, request.tokenizer.tokenizer, request.chat_template)
        rotary = rope_of(config).tensors() if layout.architecture.ropes else {}
        with reporter.counting(Work("writing the GGUF file", len(places), "tensors")) as tell:
            write_tensors(writer, places, layout, kind, rotary, tell)
    return GgufFile(request.output, kind, len(places), sum(math.prod(place.shape) for place in places.values()))


def shown_name(request: GgufRequest) -> str:
    """Return the name that llama.cpp shows, from which it concludes what is true of the tokenizer."""
    tells = any(mark in request.name.lower() for mark in TELLING_NAMES)
    if request.tokenizer.tokenizer.swallows_spaces:
        return request.name if tells else f"{request.name} (of {SWALLOWING_NAMES[0]})"
    return "" if tells else request.name


def write_tensors(
    writer: Any,
    places: dict[str, TensorPlace],
    layout: Layout,
    kind: GgufType,
    rotary: dict[str, NDArray[np.float32]],
    tell: Tell,
) -> None:
    """Announce all tensors, then write them one at a time. rotary: those of rotary positions, if there are any."""
    import gguf

    for name, values in rotary.items():
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    for key, place in places.items():
        name, rows = layout.name(key), layout.shape(key, place.shape)
        stored, raw = type_of(name, rows, kind)
        shape = (*rows[:-1], stored_bytes(rows, stored)) if raw else rows
        dtype = np.dtype(np.uint8) if raw else np.dtype(np.float32 if stored == "F32" else np.float16)
        size = math.prod(shape) * dtype.itemsize
        writer.add_tensor_info(name, shape, dtype, size, gguf.GGMLQuantizationType[stored] if raw else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in rotary.values():
        writer.write_tensor_data(values)
    for key, place in counted(places.items(), tell):
        tensor = layout.arranged(key, place.read().float())
        stored, _ = type_of(layout.name(key), tuple(tensor.shape), kind)
        refuse_overflow(key, tensor, stored)
        writer.write_tensor_data(encoded(tensor, stored))


def weights(directory: Path, config: Any) -> dict[str, TensorPlace]:
    """Yield the model's tensors, without a head that is the embedding, as transformers ties the two."""
    places = tensor_places(directory)
    embedding = next(places[name] for name in EMBEDDINGS if name in places)
    if config.tie_word_embeddings and HEAD in places and torch.equal(places[HEAD].read(), embedding.read()):
        del places[HEAD]
    return places


def type_of(name: str, shape: tuple[int, ...], kind: GgufType) -> tuple[str, bool]:
    """Return ggml's type of a tensor, and whether it is handed over as bytes."""
    if len(shape) == 1 or name == POSITIONS or kind == "f32":
        return "F32", False
    if kind == "bf16":
        return "BF16", True
    return ("Q8_0", True) if kind == "q8_0" and shape[-1] % 32 == 0 else ("F16", False)


def stored_bytes(shape: tuple[int, ...], stored: str) -> int:
    """Return the number of bytes of one row."""
    return {"BF16": 2 * shape[-1], "Q8_0": shape[-1] // 32 * 34}.get(stored, 0)


def refuse_overflow(key: str, tensor: Tensor, stored: str) -> None:
    """Raises InputError for values that the type cannot hold; q8_0 has scales in half precision."""
    largest = float(tensor.abs().max())
    limit = {"F16": LARGEST_HALF, "Q8_0": 127 * LARGEST_HALF}.get(stored, math.inf)
    if not largest <= limit:
        what, remedy = "a weight is too large for this type", "--gguf-type bf16 or f32"
        raise InputError(Problem(what, f"--gguf-type, {key}", f"{largest:.3g}", f"at most {limit:,.0f}", remedy))


def encoded(tensor: Tensor, stored: str) -> NDArray[Any]:
    """Return a float32 tensor in one of ggml's types."""
    import gguf

    array = np.ascontiguousarray(tensor.numpy())
    result: NDArray[Any] = gguf.quants.quantize(array, gguf.GGMLQuantizationType[stored])
    return result
