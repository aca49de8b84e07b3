"""(IA)^3: y = l * (W x + b), or y = W (l * x) + b in feed-forward layers, with a trained vector l; products by entries.

Liu et al. 2022, arXiv 2205.05638. l [out] scales what comes out of keys and values, and l [in] what goes into the
second matrix of a feed-forward layer. It begins at one, so that the adapted model equals its base. Merging multiplies
rows of W and entries of b by l, or columns of W: the merged module computes the same.
"""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from reflora_cli.adapters.frozen import FrozenWeight, autocast_dtype
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.factors.pair import FactorPair, Role

FILE_L = "ia3_l"


class IA3Linear(AdapterLayer):
    """A frozen W [out, in] and a trained vector l, float32."""

    peft_type: ClassVar[str] = "IA3"

    def __init__(self, frozen: FrozenWeight, vector: Tensor) -> None:
        """vector: l, which is copied."""
        super().__init__(frozen)
        self.l = nn.Parameter(vector.detach().to(frozen.device, torch.float32, copy=True))

    def pairs(self, name: str) -> list[FactorPair]:
        return []

    def roles(self) -> dict[str, Role]:
        return {"l": Role.UNDECAYED}


@final
class IA3Output(IA3Linear):
    """y = l * (W x + b), l [out], which files hold as [out, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.frozen(x.to(autocast_dtype(x)))
        return y * self.l.to(y.dtype)

    @torch.no_grad()
    def merged(self) -> Tensor:
        return self.frozen.dense() * self.l[:, None]

    @torch.no_grad()
    def plain(self, dtype: torch.dtype) -> nn.Module:
        module = super().plain(dtype)
        if self.bias is not None:
            scaled = (self.l * self.bias.float()).to(self.bias.dtype)
            module.register_parameter("bias", nn.Parameter(scaled, requires_grad=False))
        return module

    @property
    def changes_bias(self) -> bool:
        return self.bias is not None

    def tensors(self) -> dict[str, Tensor]:
        return {FILE_L: self.l[:, None]}


@final
class IA3Input(IA3Linear):
    """y = W (l * x) + b, l [in], which files hold as [1, in]."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(autocast_dtype(x))
        y: Tensor = self.frozen(x * self.l.to(x.dtype))
        return y

    @torch.no_grad()
    def merged(self) -> Tensor:
        return self.frozen.dense() * self.l

    def tensors(self) -> dict[str, Tensor]:
        return {FILE_L: self.l[None]}


def ia3_layer(frozen: FrozenWeight, scales_inputs: bool) -> IA3Linear:
    """Return the layer on a frozen weight, l at one. scales_inputs: whether l is on what goes in."""
    if scales_inputs:
        return IA3Input(frozen, torch.ones(frozen.in_features))
    return IA3Output(frozen, torch.ones(frozen.out_features))
