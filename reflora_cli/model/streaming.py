"""Keep the frozen linear weights of a base's blocks where it was loaded, in host memory or in its files.

Everything else goes to the device: embeddings, norms, biases, heads, and weights that are no linear layers', such as
those of stacked experts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.adapter_io.tensor_files import TensorPlace, tensor_places
from reflora_cli.adapters.block_homes import FileHome, Home, HostHome
from reflora_cli.adapters.block_stream import Block, BlockStream
from reflora_cli.adapters.frozen import FrozenWeight, freeze, is_adaptable
from reflora_cli.adapters.quantized import QuantizedWeight
from reflora_cli.adapters.streamed import StreamedWeight, streamed_tensors
from reflora_cli.adapters.ties import owner_of, shared_parameters
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.settings import Streaming
from reflora_cli.model.blocks import named_blocks
from reflora_cli.model.originals import model_name
from reflora_cli.model.sources import Source, local_directory

MakeHome = Callable[[Mapping[str, FrozenWeight]], Home]
MIB = 2**20


def stream_blocks(model: Any, streaming: Streaming, source: Source, absent: Collection[str]) -> None:
    """Put streamed weights in the place of the linear layers of a model's blocks, in place, if they are to be streamed.

    model: as it was loaded from the source, on the CPU. absent: the parameters that its files lack, which are not
    streamed. Raises InputError for a model without blocks, and for one whose files cannot be read one tensor at a time.
    """
    if streaming is Streaming.NONE:
        return
    blocks = streamed_blocks(model, streaming, absent)
    make = in_files(model, source, blocks) if streaming is Streaming.DISK else in_host_memory
    settled = list[Block]()
    for block in blocks:
        made = Block(tuple(block_tensors(block)), make(block))
        made.hide(torch.device("cpu"))  # before the next block is copied, so that there are not two of each
        settled.append(made)
    stream = BlockStream(settled)
    for number, block in enumerate(blocks):
        for name, weight in block.items():
            model.set_submodule(name, StreamedWeight(weight, stream, number))


def streamed_blocks(model: Any, streaming: Streaming, absent: Collection[str]) -> list[dict[str, FrozenWeight]]:
    """Return the frozen weights that come and go with each block, by name. absent: parameters that are not streamed.

    Raises InputError for a model without blocks.
    """
    left_out = {owner_of(name) for names in shared_parameters(model) for name in names} | {*map(owner_of, absent)}
    blocks = [found for prefix in named_blocks(model) if (found := linear_layers(model, prefix, left_out))]
    if not blocks:
        what = f"a {model.config.model_type} model has no list of blocks whose linear layers could be streamed"
        raise InputError(Problem(what, "model.streaming", streaming.value, remedy="set model.streaming=none"))
    return blocks


def linear_layers(model: nn.Module, block: str, left_out: Collection[str]) -> dict[str, FrozenWeight]:
    """Return the frozen weights of a block's linear layers by name, but for the modules that are left out."""
    return {
        name: freeze(module)
        for name, module in model.named_modules()
        if name.startswith(f"{block}.") and name not in left_out and is_adaptable(module)
    }


def block_tensors(block: Mapping[str, FrozenWeight]) -> list[Tensor]:
    """Return the tensors of a block's frozen weights that come and go with it, weight after weight."""
    return [own for weight in block.values() for own in streamed_tensors(weight)]


def in_host_memory(block: Mapping[str, FrozenWeight]) -> Home:
    """Return the home of a block in host memory."""
    return HostHome(block_tensors(block))


def in_files(model: Any, source: Source, blocks: list[dict[str, FrozenWeight]]) -> MakeHome:
    """Return the function that makes the home of a block in the base's files. Raises InputError for files that hold
    the weights under other names or otherwise than the model.
    """
    weights = {f"{name}.weight": own for block in blocks for name, own in block.items()}
    names, prefix = dict.fromkeys(weights), model.base_model_prefix
    keys = ((model_name(key, names, prefix), own) for key, own in tensor_places(local_directory(source)).items())
    places = {name: own for name, own in keys if name is not None}
    other = [name for name, own in weights.items() if not is_read_from(own, places.get(name))]
    if other:
        what = "the base's files hold weights under other names, or in another form, than the model needs"
        where = f"model.streaming={Streaming.DISK}"
        raise InputError(Problem(what, where, ", ".join(other[:3]), remedy="set model.streaming=host"))

    def make(block: Mapping[str, FrozenWeight]) -> Home:
        tensors = [weight.weight for weight in block.values()]
        return FileHome(tensors, [places[f"{name}.weight"].read for name in block])

    return make


def is_read_from(weight: FrozenWeight, place: TensorPlace | None) -> bool:
    """Whether a weight was read from this place as it is there; of its values the first row is compared."""
    if place is None or isinstance(weight, QuantizedWeight) or place.shape != tuple(weight.weight.shape):
        return False
    return bool(torch.equal(place.read()[:1].to(weight.weight.dtype), weight.weight.detach()[:1]))


def stream_of(model: nn.Module) -> BlockStream | None:
    """Return the stream of a model's blocks; None if all of its weights are on the device."""
    return next((own.stream for own in model.modules() if isinstance(own, StreamedWeight)), None)


def streaming_facts(model: nn.Module) -> dict[str, str]:
    """Return what the user should see of a base that is streamed."""
    stream = stream_of(model)
    if stream is None:
        return {}
    size, part = stream.kept_bytes / MIB, stream.resident_bytes / MIB
    return {"streamed": f"{size:,.1f} MiB in {len(stream.blocks)} blocks, of which {part:,.1f} MiB are on the device"}
