"""What one pass of training, forward and backward, keeps and takes at a time, found by running it without values."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from reflora_cli.adapters.quantized import QuantizedWeight
from reflora_cli.adapters.workspace import is_writable
from reflora_cli.ground.errors import RefloraError
from reflora_cli.model.precision import precision
from reflora_cli.objectives.token_loss import chunk_tokens
from reflora_cli.planning.devices import Device
from reflora_cli.planning.gpu_kernels import GpuKernels
from reflora_cli.planning.meter import Meter, is_half, storage_key
from reflora_cli.planning.offloaded import OffloadedActivations
from reflora_cli.planning.skeleton import Plain, Skeleton, skeleton, token_inputs
from reflora_cli.recipe.sections import Recipe

FEW, MORE = 2, 4
"""The numbers of blocks that are traced of a deep model of equal blocks; what each block adds follows from both."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """The batch of a pass. learned: the number of its places that are learned from. packed: rows share sequences.
    typed: whether rows have token types.
    """

    rows: int
    length: int
    learned: int
    packed: bool = False
    typed: bool = False


@dataclass(frozen=True)
class Products:
    """The number of different products in a pass. of_tokens: of shapes that follow from the rows and their length.
    of_learned: of shapes that follow from the number of learned places.
    """

    of_tokens: int = 0
    of_learned: int = 0


@dataclass(frozen=True)
class Traced:
    """Bytes of one pass. kept: what the forward pass keeps for the backward pass. peak: the most at a time, in which
    `kept` and gradients are counted, as far as they exist then. gaps: what the heap of a CPU takes beside it. way: how
    it was found. products: those of the first blocks, which the others repeat. host: what of the activations is in
    host memory.
    """

    kept: int
    peak: int
    gaps: int
    way: str
    products: Products = Products()
    host: int = 0

    @property
    def beside(self) -> int:
        """What exists beside `kept` at the peak."""
        return self.peak - self.kept

    def grown(self, first: Traced, second: Traced, times: float) -> Traced:
        """Return this pass with what the second one takes more than the first added so many times."""
        kept, peak, gaps, host = (
            own + int((larger - smaller) * times)
            for own, smaller, larger in zip(self.sizes(), first.sizes(), second.sizes(), strict=True)
        )
        return replace(self, kept=kept, peak=peak, gaps=max(0, gaps), host=host)

    def sizes(self) -> tuple[int, int, int, int]:
        return self.kept, self.peak, self.gaps, self.host


def traced(recipe: Recipe, plain: Plain, whole: Skeleton, batch: Batch, device: Device) -> Traced:
    """Return what a pass over the batch takes on a device, under FakeTensorMode.

    whole: the whole model, which tells whether its blocks are equal.
    """
    try:
        found = extrapolated(recipe, plain, whole, batch, device.kind)
    except RefloraError:
        raise
    except Exception as error:  # whatever an architecture does that has no meaning without values
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"
        found = estimated(recipe, plain, batch, reason)
    logits = plain.kind.logits_bytes(whole.model, batch.learned, device.kind, device.memory)
    return replace(found, peak=max(found.peak, found.kept + logits))


def extrapolated(recipe: Recipe, plain: Plain, whole: Skeleton, batch: Batch, device: str) -> Traced:
    """Return what a pass takes, from passes of a few blocks and of a few learned places where there are many: both
    kept and peak grow by the same amount with each block, and with each chunk of the loss.
    """
    count, chunk = block_count(plain.config), chunk_tokens(whole.model, "cpu")
    is_deep, is_long = has_equal_blocks(whole, plain.config), batch.learned > MORE * chunk
    first = skeleton(recipe, plain, whole.left_out, FEW) if is_deep else whole
    short = replace(batch, learned=FEW * chunk) if is_long else batch
    found = run_pass(recipe, plain, first, short, device)
    total, way = found, "traced"
    if is_deep:
        more = run_pass(recipe, plain, skeleton(recipe, plain, whole.left_out, MORE), short, device)
        way = f"traced on {FEW} and {MORE} of {count} equal blocks"
        total = total.grown(found, more, (count - FEW) / (MORE - FEW))
    if is_long:
        longer = run_pass(recipe, plain, first, replace(batch, learned=MORE * chunk), device)
        total = total.grown(found, longer, (batch.learned - FEW * chunk) / (FEW * chunk))
    return replace(total, way=way)


def run_pass(recipe: Recipe, plain: Plain, model: Skeleton, batch: Batch, device: str) -> Traced:
    """Return what a pass over the batch takes, with all of the model's blocks. The model's gradients are gone
    afterwards.
    """
    loss_module = plain.kind.loss_module(recipe, model.model)
    arguments = arguments_of(plain, batch, model.model)
    parameters = model.adapted.parameters.values()
    accumulates = recipe.train.batch_size > recipe.train.micro_batch_size
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter) if accumulates else None
    model.model.train()
    lent = lend_weights(model.model) if device == "cpu" else 0
    meter, away = Meter(), OffloadedActivations(weights_of(model.model))
    offloads = recipe.train.offload_activations and device == "cuda"
    if recipe.train.gradient_checkpointing:
        model.base.recompute_activations(lambda: (nullcontext(), kernels_of(plain, device)))
    with meter, kernels_of(plain, device):
        with precision(CPU, plain.dtype), away.keeping() if offloads else nullcontext():
            loss = loss_module(**arguments)
        kept = meter.live
        loss.backward()
    for parameter in parameters:
        parameter.grad = None
    gaps = meter.heap.peak - meter.peak if device == "cpu" else 0
    return Traced(kept, meter.peak + lent, max(0, gaps), "traced", products_in(meter, batch), away.peak)


def kernels_of(plain: Plain, device: str) -> AbstractContextManager[Any]:
    """Return the context in which a device of this type keeps what it keeps. A backward pass leaves it, and what is
    computed again there needs one of its own.
    """
    return GpuKernels(half=is_half(plain.dtype)) if device == "cuda" else nullcontext()


def weights_of(model: nn.Module) -> frozenset[int]:
    """Return the storages of a model's parameters and buffers."""
    return frozenset(storage_key(own) for own in (*model.parameters(), *model.buffers()))


def lend_weights(model: nn.Module) -> int:
    """Let the products of quantized weights without values use one dense weight after the other in the same memory, as
    `workspace.lent` does on a CPU, and return the bytes of that memory.
    """
    packed = [own for own in model.modules() if isinstance(own, QuantizedWeight) and is_writable(own)]
    if not packed:
        return 0
    rooms = {own.dtype: torch.empty(0) for own in packed}
    for dtype in rooms:
        rooms[dtype] = torch.empty(max(o.out_features * o.in_features for o in packed if o.dtype is dtype), dtype=dtype)
    for own in packed:
        shape = (own.out_features, own.in_features)
        # In the place of the method: values have no meaning here, and a copy of the model is never made.
        setattr(own, "dequantized", partial(rooms[own.dtype][: shape[0] * shape[1]].view, *shape))  # noqa: B010
    return sum(room.nbytes for room in rooms.values())


def products_in(meter: Meter, batch: Batch) -> Products:
    """Return how many different products a metered pass over the batch had, by what their shapes follow from."""
    of_tokens = {batch.rows * batch.length, batch.length}
    learned = batch.learned not in of_tokens
    count = sum(learned and any(batch.learned in shape for shape, _ in own[1:]) for own in meter.products)
    return Products(len(meter.products) - count, count)


def arguments_of(plain: Plain, batch: Batch, model: nn.Module) -> dict[str, Any]:
    """Return the loss module's arguments for a batch without values."""
    inputs = token_inputs(batch.rows, batch.length)
    if batch.packed:
        # Where rows end is told by positions, whose values decide the mask: here the mask itself is given.
        shape = (batch.rows, 1, batch.length, batch.length)
        inputs["attention_mask"] = torch.ones(shape, dtype=torch.bool)
        inputs["position_ids"] = torch.zeros(batch.rows, batch.length, dtype=torch.long)
    if batch.typed:
        inputs["token_type_ids"] = torch.zeros(batch.rows, batch.length, dtype=torch.long)
    return {**inputs, **plain.kind.made_up_answers(batch.rows, batch.learned)}


def block_count(config: Any) -> int:
    """Return the number of blocks that a config names; 0 where it names none."""
    found = getattr(config.get_text_config(), "num_hidden_layers", 0)
    return found if isinstance(found, int) else 0


def has_equal_blocks(whole: Skeleton, config: Any) -> bool:
    """Whether the model is deep and its blocks are alike: of the same kind and shapes, with the same adapters."""
    count = block_count(config)
    lists = [own for own in whole.model.modules() if isinstance(own, nn.ModuleList) and len(own) == count]
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ())
    if count <= MORE or len(lists) != 1 or len(kinds) > 1:
        return False
    return len({shapes_of(block) for block in lists[0]}) == 1


def shapes_of(block: nn.Module) -> tuple[Any, ...]:
    """Return the names, shapes and dtypes of a block's tensors, and which of them are trained."""
    tensors = (*block.named_parameters(), *block.named_buffers())
    return tuple((name, tuple(own.shape), own.dtype, own.requires_grad) for name, own in tensors)


def estimated(recipe: Recipe, plain: Plain, batch: Batch, reason: str) -> Traced:
    """Return an estimate for an architecture whose pass cannot be run without values.

    It is the count of Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1): a block keeps s b h (34 + 5 a s / h)
    bytes in half precision, for s tokens, b rows, width h and a heads; twice that in float32.
    """
    text = plain.config.get_text_config()
    tokens, wide = batch.rows * batch.length, plain.dtype.itemsize // 2 or 1
    width, heads = (
        int(getattr(text, key, usual)) for key, usual in (("hidden_size", 1024), ("num_attention_heads", 16))
    )
    block = int(tokens * width * (34 + 5 * heads * batch.length / width)) * wide
    count = block_count(plain.config) or 12
    kept = count * tokens * width * plain.dtype.itemsize if recipe.train.gradient_checkpointing else count * block
    return Traced(kept, kept + block, 0, f"estimated by a formula, because the model cannot be traced ({reason})")
