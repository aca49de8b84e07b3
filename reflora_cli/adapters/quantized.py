"""Frozen weights in four and eight bits, as bitsandbytes quantizes them (Dettmers et al. 2023, arXiv 2305.14314; 2022,
arXiv 2208.07339).

What every product uses is the dequantized weight: it exists while a product runs and is made again for the backward
pass, so no dense copy stays. The eight-bit weight too is only a weight: activations are not quantized, and so the
adapted model is exactly what merging onto the dequantized weight gives.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflora_cli.adapters.dequantize import Stored, dense, quant_state, quantized_product
from reflora_cli.adapters.frozen import FrozenWeight, autocast_dtype, module_of
from reflora_cli.adapters.workspace import lent
from reflora_cli.ground.errors import InputError, Problem


class QuantizedWeight(FrozenWeight):
    """W [out, in] in few bits. `weight` holds codes, on which nothing can be computed. kind: nf4, fp4 or int8."""

    kind: str
    read_original: Callable[[], Tensor | None] = staticmethod(lambda: None)
    """The function that reads from the checkpoint what was quantized, [out, in], float32 on the CPU, in memory of its
    own; it returns None where the checkpoint does not hold it."""

    def __init__(
        self, shape: tuple[int, int], bias: Tensor | None, dtype: torch.dtype, layout: type[nn.Module]
    ) -> None:
        """shape: (out, in); dtype: of products; layout: the class of the module that it stands for."""
        super().__init__()
        self.out_features, self.in_features = shape
        self.dtype, self.layout = dtype, layout
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach(), requires_grad=False))

    @abstractmethod
    def stored(self) -> Stored:
        """Return the tensors and numbers in which W is stored."""

    def dequantized(self) -> Tensor:
        """Return W [out, in] in the dtype of products, in new memory."""
        return dense(self.stored())

    @abstractmethod
    def stored_bits(self) -> int:
        """Return the number of bits that are stored for W, scales included."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.product(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def product(self, x: Tensor) -> Tensor:
        x = x.to(autocast_dtype(x))
        if is_compiled():
            product: Callable[..., Tensor] = quantized_product
            return product(x, *self.stored())
        apply: Callable[..., Tensor] = DequantizedProduct.apply
        return apply(x, self)

    def transposed_product(self, g: Tensor) -> Tensor:
        return g @ lent(self).to(g.dtype)

    def dense(self) -> Tensor:
        return self.dequantized().float()

    def float_rows(self) -> Iterator[Tensor]:
        """Yield W as a whole, valid until the next product in this thread."""
        yield lent(self).float()

    def thaw(self, weight: Tensor) -> nn.Module:
        return module_of(self.layout, weight, self.bias)

    def moved(self, change: Tensor) -> FrozenWeight:
        """Return the dequantized W + change, quantized again in the same way: off by the rounding of one quantization.

        It is made on the CPU, as when a model is loaded, so that every machine has the same codes.
        """
        return self.quantized_alike(copy.deepcopy(self).cpu().dense().add_(change.cpu()))

    def original(self) -> Tensor:
        """Return what was quantized when the model was loaded, float32 on the CPU.

        Raises InputError if the checkpoint does not hold it, or if what it holds has other codes.
        """
        W = self.read_original()
        if (
            W is None
            or W.shape != (self.out_features, self.in_features)
            or not torch.equal(self.quantized_alike(W).weight, self.weight)
        ):
            what = "the base's weights before their quantization are needed, and the base's files do not hold them"
            found = "quantized weights only, or other names" if W is None else "a weight that quantizes differently"
            remedy = "set model.name to a base with float weights, and model.quantization to quantize it"
            raise InputError(Problem(what, "model.name", found, remedy=remedy))
        return W

    def moved_original(self, change: Tensor) -> FrozenWeight:
        """Return `original` + change, quantized in the same way, on the CPU as `moved`. Raises as `original`."""
        return self.quantized_alike(self.original().add_(change.cpu()))

    def quantized_alike(self, W: Tensor) -> QuantizedWeight:
        """Return W [out, in], float32 on the CPU, quantized as this weight is and on its device."""
        made = quantize(W, self.bias, self.kind, double=self.is_double, dtype=self.dtype, layout=self.layout)
        return made.to(self.weight.device)

    @property
    def is_double(self) -> bool:
        """Whether the scales of blocks are quantized too."""
        return False


class DequantizedProduct(torch.autograd.Function):
    """x [..., in] -> W x [..., out], keeping neither x nor a dense W for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: QuantizedWeight) -> Tensor:
        ctx.frozen = frozen
        return F.linear(x, lent(frozen).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = upstream
        return gradient @ lent(ctx.frozen).to(gradient.dtype), None


def is_compiled() -> bool:
    """Return whether a compiler traces what runs. An exporter traces too, but the operators are in no file of its."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


@final
class FourBitWeight(QuantizedWeight):
    """NF4 or FP4: blocks of 64 weights share a scale, which double quantization stores in 8 bits."""

    weight: Tensor
    absmax: Tensor
    code: Tensor

    def __init__(self, codes: Tensor, state: Any, bias: Tensor | None, layout: type[nn.Module]) -> None:
        """codes: two in each byte; state: bitsandbytes' `QuantState`."""
        super().__init__((state.shape[0], state.shape[1]), bias, state.dtype, layout)
        self.kind, self.block = state.quant_type, state.blocksize
        self.nested_block = state.state2.blocksize if state.nested else None
        self.register_buffer("weight", codes.detach(), persistent=False)
        tensors = {"absmax": state.absmax, "code": state.code}
        if state.nested:
            tensors |= {"nested_absmax": state.state2.absmax, "nested_code": state.state2.code, "offset": state.offset}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach(), persistent=False)

    @property
    def is_double(self) -> bool:
        return self.nested_block is not None

    def stored(self) -> Stored:
        own = dict(self.named_buffers())
        tables = ("absmax", "code", *(("nested_absmax", "nested_code", "offset") if self.is_double else ()))
        blocks = [self.block, *([self.nested_block] if self.nested_block is not None else [])]
        tensors = [self.weight, *(own[name] for name in tables)]
        return Stored(tensors, [self.out_features, self.in_features, *blocks], self.kind, self.dtype)

    def product(self, x: Tensor) -> Tensor:
        if not x.is_cuda or is_compiled():
            return super().product(x)
        from bitsandbytes import matmul_4bit

        fused: Tensor = matmul_4bit(x.to(autocast_dtype(x)), self.weight.t(), quant_state=quant_state(self.stored()))
        return fused

    def stored_bits(self) -> int:
        # The table of 16 levels is the same for all weights of a kind.
        own = [tensor for name, tensor in self.named_buffers() if name not in ("code", "nested_code")]
        return sum(8 * tensor.nbytes for tensor in own)


@final
class Int8Weight(QuantizedWeight):
    """Whole numbers from -127 to 127 with a scale for each row."""

    kind = "int8"

    weight: Tensor
    row_scale: Tensor

    def __init__(
        self, codes: Tensor, row_scale: Tensor, bias: Tensor | None, dtype: torch.dtype, layout: type[nn.Module]
    ) -> None:
        """codes: int8 [out, in]; row_scale: the largest size in each row, float32 [out]."""
        super().__init__((codes.shape[0], codes.shape[1]), bias, dtype, layout)
        self.register_buffer("weight", codes.detach(), persistent=False)
        self.register_buffer("row_scale", row_scale.detach().float(), persistent=False)

    def stored(self) -> Stored:
        return Stored([self.weight, self.row_scale], [self.out_features, self.in_features], self.kind, self.dtype)

    def stored_bits(self) -> int:
        return 8 * (self.weight.nbytes + self.row_scale.nbytes)


def quantize(
    weight: Tensor, bias: Tensor | None, kind: str, *, double: bool, dtype: torch.dtype, layout: type[nn.Module]
) -> QuantizedWeight:
    """Return W [out, in], quantized on the CPU to the same bits as when a model is loaded. kind: nf4, fp4 or int8."""
    from bitsandbytes import functional

    if kind == "int8":
        codes, scale, _ = functional.int8_vectorwise_quant(weight.to(dtype).to(torch.float16))
        return Int8Weight(codes, scale, bias, dtype, layout)
    codes, state = functional.quantize_4bit(weight.to(dtype).contiguous(), quant_type=kind, compress_statistics=double)
    return FourBitWeight(codes, state, bias, layout)


def from_bitsandbytes(module: Any, dtype: torch.dtype, layout: type[nn.Module]) -> QuantizedWeight:
    """Return the frozen weight of a loaded `Linear4bit` or `Linear8bitLt`, on the same storage."""
    if type(module).__name__ == "Linear4bit":
        return FourBitWeight(module.weight.data, module.weight.quant_state, module.bias, layout)
    return Int8Weight(module.weight.data, module.weight.SCB, module.bias, dtype, layout)


def is_bitsandbytes(module: nn.Module) -> bool:
    """Return whether a module holds a quantized weight of bitsandbytes."""
    return type(module).__module__.startswith("bitsandbytes.") and type(module).__name__ in (
        "Linear4bit",
        "Linear8bitLt",
    )
