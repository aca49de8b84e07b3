"""Weights in few bits: the published levels, the dequantized layer's arithmetic, and nothing dense that stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bitsandbytes import functional
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from reflora_cli.adapters.dora import DoRALinear
from reflora_cli.adapters.lora import LoRALinear
from reflora_cli.adapters.quantized import FourBitWeight, QuantizedWeight, quantize

KINDS = ("nf4", "fp4", "int8")
# The NF4 levels of QLoRA (Dettmers et al. 2023, appendix E): quantiles of a normal distribution, 0 among them.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def weight(shape: tuple[int, int] = (48, 128), seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def quantized(kind: str, W: Tensor, bias: Tensor | None = None, *, double: bool = True) -> QuantizedWeight:
    return quantize(W, bias, kind, double=double, dtype=W.dtype, layout=torch.nn.Linear)


@pytest.mark.parametrize("shape", [(48, 128), (128, 96), (64, 32)], ids=str)
def test_nf4_is_the_nearest_of_sixteen_levels_in_each_block(shape: tuple[int, int]) -> None:
    """In float64, block by block of 64 weights, against the published table; also of blocks that end within a row."""
    W = weight(shape)
    levels = np.array(NF4)
    blocks = W.double().numpy().reshape(-1, 64)
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    nearest = np.abs(blocks[:, :, None] / scale[:, :, None] - levels).argmin(axis=2)
    expected = torch.from_numpy(levels[nearest] * scale).reshape(W.shape)
    torch.testing.assert_close(quantized("nf4", W, double=False).dense().double(), expected, atol=1e-6, rtol=0)
    # Double quantization rounds every block's scale to 8 bits.
    torch.testing.assert_close(quantized("nf4", W).dense().double(), expected, atol=1e-2 * float(scale.max()), rtol=0)


def test_int8_is_rounded_to_127ths_of_a_rows_largest() -> None:
    W = weight().half().float()
    scale = W.abs().max(dim=1, keepdim=True).values
    dense = quantized("int8", W).dense()
    steps = dense / scale * 127
    torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    assert bool(((dense - W).abs() <= 0.5001 * scale / 127).all())


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_dequantized_as_bitsandbytes_does(kind: str, double: bool) -> None:
    W = weight()
    codes, state = functional.quantize_4bit(W, quant_type=kind, compress_statistics=double)
    assert torch.equal(quantized(kind, W, double=double).dequantized(), functional.dequantize_4bit(codes, state))


def test_bits_for_each_weight() -> None:
    W = weight((1024, 512))
    bits = {(kind, double): quantized(kind, W, double=double).stored_bits() / W.numel() for kind in KINDS
            for double in (True, False)}  # fmt: skip
    # 4 bits, and for each block of 64 a scale of 8 bits plus 1/256 of a float32; or a float32 scale.
    assert bits["nf4", True] == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-3)
    assert bits["fp4", True] == bits["nf4", True]
    assert bits["nf4", False] == pytest.approx(4.5)
    assert bits["int8", True] == pytest.approx(8 + 32 / 512)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_dequantized_dense_layer(kind: str, dtype: torch.dtype) -> None:
    W, bias = weight().to(dtype), torch.randn(48, dtype=dtype)
    frozen = quantized(kind, W, bias)
    dense = nn.Parameter(frozen.dequantized())
    x = torch.randn(2, 5, 128, dtype=dtype, requires_grad=True)
    y, expected = frozen(x), F.linear(x, dense, bias)
    assert y.dtype is dtype
    exact = dtype is torch.float32
    torch.testing.assert_close(y, expected, atol=1e-5 if exact else 2e-2, rtol=1e-5 if exact else 1e-2)
    upstream = torch.randn_like(y)
    (own,) = torch.autograd.grad(y, x, upstream)
    (other,) = torch.autograd.grad(expected, x, upstream)
    torch.testing.assert_close(own, other, atol=1e-5 if exact else 1e-2, rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_decides_the_dtype(kind: str) -> None:
    frozen = quantized(kind, weight())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = frozen(torch.randn(3, 128, requires_grad=True))
    assert y.dtype is torch.bfloat16
    y.float().sum().backward()


@pytest.mark.parametrize("kind", KINDS)
def test_no_dense_weight_waits_for_the_backward_pass(kind: str) -> None:
    frozen = quantized(kind, weight())
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        frozen(torch.randn(3, 128, requires_grad=True))
    assert sum(kept) < frozen.in_features * frozen.out_features


@pytest.mark.parametrize("layer", [LoRALinear, DoRALinear])
@pytest.mark.parametrize("kind", KINDS)
def test_adapted_layer_is_that_on_the_dequantized_weight(kind: str, layer: Any) -> None:
    frozen = quantized(kind, weight(), torch.randn(48))
    A, B = torch.randn(4, 128) * 0.1, torch.randn(48, 4) * 0.1
    own = layer(frozen, (A, B), 2.0, 0.0)
    x = torch.randn(6, 128)
    plain = F.linear(x, own.merged(), frozen.bias)
    torch.testing.assert_close(own(x), plain, atol=1e-5, rtol=1e-5)
    dense = frozen.dense() + 2.0 * B @ A
    if layer is DoRALinear:
        torch.testing.assert_close(own.row_norms(), dense.norm(dim=1), atol=1e-5, rtol=1e-5)
    else:
        torch.testing.assert_close(own.merged(), dense)


@pytest.mark.parametrize("kind", KINDS)
def test_a_transposed_layer_is_given_back_as_one(kind: str) -> None:
    frozen = quantize(weight(), torch.zeros(48), kind, double=True, dtype=torch.float32, layout=Conv1D)
    conv = frozen.thaw(frozen.dense())
    assert isinstance(conv, Conv1D)
    x = torch.randn(3, 128)
    torch.testing.assert_close(conv(x), frozen(x), atol=1e-5, rtol=1e-5)


def test_moving_takes_scales_along() -> None:
    frozen = quantized("nf4", weight())
    assert isinstance(frozen, FourBitWeight)
    assert {name for name, _ in frozen.named_buffers()} == {
        "weight", "absmax", "code", "nested_absmax", "nested_code", "offset",
    }  # fmt: skip
    assert frozen.to("meta").absmax.device.type == "meta"
