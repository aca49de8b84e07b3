"""The frozen weight of an adapted module, behind one small interface.

An adapter layer never looks at how its base stores W; it asks for products, row norms or a dense copy, always with W in
R^{out x in}. Another precision or layout is another `FrozenWeight` and one arm in `freeze`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CAST_ELEMENTS = 2**23
"""The number of elements of a half-precision W that are cast to float32 at a time: 32 MiB."""
PLAIN_SUBCLASSES = ("FalconLinear",)
"""Subclasses of nn.Linear in transformers that compute what nn.Linear does."""
TRANSPOSED_CLASSES = ("transformers.pytorch_utils.Conv1D",)
"""Linear layers that store their weight [in, out]. They are known by name, so that transformers is not imported here;
each is made by `cls(out, in)` and has a `weight` and a `bias`."""


class FrozenWeight(nn.Module, ABC):
    """W [out, in] and an optional bias [out], neither trained."""

    in_features: int
    out_features: int
    weight: Tensor
    bias: Tensor | None

    @property
    def device(self) -> torch.device:
        """The device on which W is used."""
        return self.weight.device

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return W x + bias [..., out] in x's dtype, for x [..., in]."""

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """Return W x [..., out] without the bias, for x [..., in]."""

    @abstractmethod
    def transposed_product(self, g: Tensor) -> Tensor:
        """Return g W [n, in] for g [n, out], in new memory and without gradients: the backward pass of `product`."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return a float32 copy of W [out, in]."""

    @abstractmethod
    def thaw(self, weight: Tensor) -> nn.Module:
        """Return an ordinary module of the kind this was made from, with `weight` [out, in] and the same bias."""

    def moved(self, change: Tensor) -> FrozenWeight:
        """Return the frozen weight of W + change, in the same dtype and on the same device, in memory of its own.

        change: [out, in], float32, on any device.
        """
        return freeze(self.thaw(self.dense().add_(change.to(self.weight.device)).to(self.weight.dtype)))

    def original(self) -> Tensor:
        """Return W [out, in] as the checkpoint holds it, in float32: a weight that is not quantized is that itself."""
        return self.dense()

    def moved_original(self, change: Tensor) -> FrozenWeight:
        """Return the frozen weight of `original` + change, stored as this one; for a weight that is not quantized this
        is `moved`. change: [out, in], float32, on any device.
        """
        return self.moved(change)

    @torch.no_grad()
    def row_square_sums(self) -> Tensor:
        """Return the squared norm of every row of W [out], float32."""
        return torch.cat([rows.square().sum(dim=1) for rows in self.float_rows()])

    def row_products(self, A: Tensor) -> Tensor:
        """Return W A^T [out, r] in float32, for A [r, in] float32."""
        return torch.cat([rows @ A.T for rows in self.float_rows()])

    def float_rows(self) -> Iterator[Tensor]:
        """Yield the rows of W in float32, [n, in] at a time; a weight that has to be made first comes as a whole."""
        yield self.dense()


class LinearWeight(FrozenWeight):
    """The weight of an `nn.Linear`, stored [out, in]."""

    def __init__(self, module: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = module.in_features, module.out_features
        self.weight = module.weight
        self.bias = module.bias
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), cast(self.bias, x.dtype))

    def product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))

    def transposed_product(self, g: Tensor) -> Tensor:
        return g @ self.weight.detach().to(g.dtype)

    def float_rows(self) -> Iterator[Tensor]:
        return float_slices(self.weight.detach())

    def dense(self) -> Tensor:
        return self.weight.detach().to(torch.float32, copy=True)

    def thaw(self, weight: Tensor) -> nn.Module:
        return module_of(nn.Linear, weight, self.bias)


class TransposedWeight(FrozenWeight):
    """The weight of one of TRANSPOSED_CLASSES (GPT-2's `Conv1D`), stored [in, out]."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        assert isinstance(module.weight, nn.Parameter)
        self.in_features, self.out_features = module.weight.shape
        self.layout = type(module)
        self.weight = module.weight
        self.register_parameter("bias", module.bias if isinstance(module.bias, nn.Parameter) else None)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T.to(x.dtype), cast(self.bias, x.dtype))

    def product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T.to(x.dtype))

    def transposed_product(self, g: Tensor) -> Tensor:
        return g @ self.weight.detach().T.to(g.dtype)

    def float_rows(self) -> Iterator[Tensor]:
        return float_slices(self.weight.detach().T)

    def dense(self) -> Tensor:
        return self.weight.detach().T.to(torch.float32, copy=True).contiguous()

    def thaw(self, weight: Tensor) -> nn.Module:
        return module_of(self.layout, weight, self.bias)


def float_slices(W: Tensor) -> Iterator[Tensor]:
    """Yield rows of W [out, in] in float32: all at once if W is float32, else as many as CAST_ELEMENTS allows."""
    if W.dtype is torch.float32:
        yield W
    else:
        yield from (rows.float() for rows in torch.split(W, max(1, CAST_ELEMENTS // W.shape[1])))


def module_of(layout: type[nn.Module], weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Return a frozen linear layer with this weight [out, in]: one of the class `layout` if that stores its weight
    transposed, an `nn.Linear` otherwise."""
    out_features, in_features = weight.shape
    if is_transposed(layout):
        module = layout(out_features, in_features)
        module.register_parameter("weight", as_parameter(weight.T.contiguous()))
    else:
        module = nn.Linear(in_features, out_features, bias is not None, device="meta")
        module.register_parameter("weight", as_parameter(weight))
    module.register_parameter("bias", as_parameter(bias))
    return module


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a product with x runs."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return the tensor in this dtype, which is the tensor itself if it has the dtype already."""
    return None if tensor is None else tensor.to(dtype)


def as_parameter(tensor: Tensor | None) -> nn.Parameter | None:
    """Return a frozen parameter on the same storage."""
    return None if tensor is None else nn.Parameter(tensor.detach(), requires_grad=False)


def is_transposed(layout: type[nn.Module]) -> bool:
    """Return whether modules of this class store their weight [in, out]."""
    return f"{layout.__module__}.{layout.__qualname__}" in TRANSPOSED_CLASSES


def is_adaptable(module: nn.Module) -> bool:
    """Return whether `freeze` takes the module. Most subclasses of nn.Linear compute something else and are
    refused.
    """
    if isinstance(module, FrozenWeight) or type(module) is nn.Linear or is_transposed(type(module)):
        return True
    return isinstance(module, nn.Linear) and type(module).__name__ in PLAIN_SUBCLASSES


def freeze(module: nn.Module) -> FrozenWeight:
    """Return the frozen weight of an adaptable module, on the same storage. Raises TypeError for any other module.

    A base that was quantized when it was loaded already holds frozen weights.
    """
    if isinstance(module, FrozenWeight):
        return module
    if isinstance(module, nn.Linear):
        return LinearWeight(module)
    if is_transposed(type(module)):
        return TransposedWeight(module)
    raise TypeError(f"cannot adapt a {type(module).__name__}")
