"""A frozen weight that is on the device only while its block computes.

Its products keep nothing of W for the backward pass, which asks for the block again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reflora_cli.adapters.block_stream import BlockStream
from reflora_cli.adapters.frozen import FrozenWeight, autocast_dtype
from reflora_cli.adapters.layer import flat


@final
class StreamedWeight(FrozenWeight):
    """Another frozen weight, whose tensors but for the bias come and go with their block."""

    def __init__(self, own: FrozenWeight, stream: BlockStream, block: int) -> None:
        """own: the frozen weight; its tensors are among those of the stream's block with this number."""
        super().__init__()
        self.in_features, self.out_features = own.in_features, own.out_features
        self.register_parameter("bias", own.bias if isinstance(own.bias, nn.Parameter) else None)
        self.stream, self.block = stream, block
        self.held = (own,)  # a tuple, so that a model that moves to a device does not take the weight with it

    @property
    def own(self) -> FrozenWeight:
        """The frozen weight, whose tensors may not be there."""
        return self.held[0]

    def present(self) -> FrozenWeight:
        """Return the frozen weight with its tensors on the device, until another block is asked for."""
        self.stream.enter(self.block, self.training)
        return self.own

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """A copy of the weight as stored, on the device: models that multiply by it themselves may keep it."""
        return self.present().weight.detach().clone()

    @property
    def device(self) -> torch.device:
        return self.stream.device

    def forward(self, x: Tensor) -> Tensor:
        return streamed_product(x, self, with_bias)

    def product(self, x: Tensor) -> Tensor:
        return streamed_product(x, self, without_bias)

    def transposed_product(self, g: Tensor) -> Tensor:
        return self.present().transposed_product(g)

    def dense(self) -> Tensor:
        return self.present().dense()

    def float_rows(self) -> Iterator[Tensor]:
        return self.present().float_rows()

    def thaw(self, weight: Tensor) -> nn.Module:
        return self.own.thaw(weight)

    def moved(self, change: Tensor) -> FrozenWeight:
        """Return this weight itself, at whose home there is W + change now. Raises InputError if that is the base's
        files.
        """
        return self.replaced(self.present().moved(change))

    def original(self) -> Tensor:
        return self.present().original()

    def moved_original(self, change: Tensor) -> FrozenWeight:
        """Return this weight itself, at whose home there is `original` + change now. Raises as `moved`."""
        return self.replaced(self.present().moved_original(change))

    def replaced(self, other: FrozenWeight) -> FrozenWeight:
        """Return this weight itself, at whose home the values of another one are now."""
        self.stream.keep(self.block, streamed_tensors(self.own), streamed_tensors(other))
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Let blocks come to another device from now on, if the model is moved to one."""
        device = fn(torch.empty(0, device=self.stream.device)).device
        if device != self.stream.device:
            self.stream.place(device)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call,no-any-return]


class StreamedProduct(torch.autograd.Function):
    """x [n, in] -> W x, with or without the bias [n, out]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: StreamedWeight, compute: Callable[[FrozenWeight, Tensor], Tensor]
    ) -> Tensor:
        ctx.weight = weight
        with torch.autocast(x.device.type, enabled=False):
            return compute(weight.present(), x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (g,) = upstream
        return ctx.weight.transposed_product(g), None, None


def streamed_product(x: Tensor, weight: StreamedWeight, compute: Callable[[FrozenWeight, Tensor], Tensor]) -> Tensor:
    """Return what `compute` makes of rows, [..., out] for x [..., in], in the dtype of autocast."""
    apply: Callable[..., Tensor] = StreamedProduct.apply
    return apply(flat(x.to(autocast_dtype(x))), weight, compute).view(*x.shape[:-1], -1)


def with_bias(weight: FrozenWeight, x: Tensor) -> Tensor:
    """Return W x + bias."""
    y: Tensor = weight(x)
    return y


def without_bias(weight: FrozenWeight, x: Tensor) -> Tensor:
    """Return W x."""
    return weight.product(x)


def streamed_tensors(weight: FrozenWeight) -> list[Tensor]:
    """Return the tensors of a frozen weight that come and go with its block: all but its bias."""
    own = (*weight.named_parameters(recurse=False), *weight.named_buffers(recurse=False))
    return [tensor for name, tensor in own if name != "bias"]


def frozen_weights(model: nn.Module) -> Iterator[FrozenWeight]:
    """Yield the frozen weights of a model; one that is streamed as itself, though its tensors may not be there."""
    for module in model.modules():
        if isinstance(module, FrozenWeight):
            yield module.own if isinstance(module, StreamedWeight) else module
