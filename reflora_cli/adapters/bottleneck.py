"""Bottleneck adapters: y = h + W_u f(W_d drop(h) + b_d) + b_u behind a linear layer, h = W x + b [..., out].

Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2020, arXiv 2005.00247. W_d [r, out] and b_d [r] lead into a
bottleneck of r numbers, W_u [out, r] and b_u [out] lead out of it, and f is applied to every entry. Which linear layers
are adapted makes the difference between the two: Houlsby's stand behind the outputs of attention and of the
feed-forward in every block, Pfeiffer's behind the latter, all before the residual sum and the norm. (Models that drop
outputs in training drop them behind the adapter.) A block trains k (2 r out + r + out) numbers, with k adapters in it.

W_u and both biases start at zero, so that the adapted model equals its base, and W_d as A of LoRA: uniform up to
1/sqrt(out). The papers' code draws both matrices close to zero (deviation 0.01 at most) for the same purpose. f is not
linear, so no weight computes the same: these adapters are never merged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflora_cli.adapters.frozen import FrozenWeight, autocast_dtype
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.factors.pair import FactorPair, Role
from reflora_cli.methods.unmerged_layers import BOTTLENECK, Activation

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu, "tanh": torch.tanh}
"""The functions f by their names in a recipe."""
PARTS = {"down": Role.DECAYED, "down_bias": Role.UNDECAYED, "up": Role.DECAYED, "up_bias": Role.UNDECAYED}
"""The parameters W_d, b_d, W_u, b_u with their roles."""


class Bottleneck(nn.Module):
    """A linear layer followed by a bottleneck, without anything that trains: what an adapted layer is when the weights
    around it are made plain."""

    def __init__(self, linear: nn.Module, tensors: Mapping[str, Tensor], activation: Activation) -> None:
        super().__init__()
        self.linear, self.activation = linear, activation
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Return y [..., out] for x [..., in]."""
        h: Tensor = self.linear(x)
        down, down_bias, up, up_bias = (self.get_buffer(name) for name in PARTS)
        return h + F.linear(FUNCTIONS[self.activation](F.linear(h, down, down_bias)), up, up_bias)


@final
class BottleneckLinear(AdapterLayer):
    """A frozen W [out, in] with a trained bottleneck on its output.

    down [r, out], down_bias [r], up [out, r], up_bias [out]: float32. activation: the name of f. Dropout acts on the
    bottleneck's input.
    """

    peft_type: ClassVar[str] = BOTTLENECK

    def __init__(self, frozen: FrozenWeight, rank: int, activation: Activation, dropout: float) -> None:
        """Make the bottleneck with zeros: `start_itself` gives W_d its first values."""
        super().__init__(frozen)
        out, device = frozen.out_features, frozen.device
        self.down, self.down_bias = (self.zeros(shape, device) for shape in ((rank, out), (rank,)))
        self.up, self.up_bias = (self.zeros(shape, device) for shape in ((out, rank), (out,)))
        self.activation: Activation = activation
        self.dropout = nn.Dropout(dropout)

    @staticmethod
    def zeros(shape: tuple[int, ...], device: torch.device) -> nn.Parameter:
        """Return a trained parameter at zero."""
        return nn.Parameter(torch.zeros(shape, device=device))

    @classmethod
    def restored(
        cls, frozen: FrozenWeight, tensors: Mapping[str, Tensor], activation: Activation, dropout: float
    ) -> Self:
        """Return the layer that has written these tensors, whose shapes fit."""
        layer = cls(frozen, len(tensors["down_bias"]), activation, dropout)
        with torch.no_grad():
            for name, tensor in tensors.items():
                layer.get_parameter(name).copy_(tensor)
        return layer

    @torch.no_grad()
    def start_itself(self, draw: torch.Generator) -> None:
        bound = 1 / math.sqrt(self.down.shape[1])
        self.down.copy_(torch.empty(self.down.shape).uniform_(-bound, bound, generator=draw))

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.frozen(x.to(autocast_dtype(x)))
        down, down_bias, up, up_bias = (self.get_parameter(name).to(h.dtype) for name in PARTS)
        inner = FUNCTIONS[self.activation](F.linear(self.dropout(h), down, down_bias))
        return h + F.linear(inner, up, up_bias)

    def merged(self) -> Tensor:
        """Raises TypeError: what is between W and the output is not linear."""
        raise TypeError("no weight computes what a bottleneck computes")

    def plain(self, dtype: torch.dtype) -> nn.Module:
        linear = self.frozen.thaw(self.frozen.dense().to(dtype))
        tensors = {name: self.get_parameter(name).detach().to(dtype) for name in PARTS}
        return Bottleneck(linear, tensors, self.activation)

    def pairs(self, name: str) -> list[FactorPair]:
        return []

    def roles(self) -> dict[str, Role]:
        return dict(PARTS)

    def tensors(self) -> dict[str, Tensor]:
        return {f"bottleneck_{name}": self.get_parameter(name) for name in PARTS}
