"""Products with a quantized weight as a compiler sees them: operators that keep no dense weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reflora_cli.adapters.adaptation import adapt
from reflora_cli.adapters.dequantize import quantized_product
from reflora_cli.adapters.quantized import QuantizedWeight, quantize
from reflora_cli.methods.layers import LAYERS, LayerKind

OUT, IN, ROWS = 96, 64, 50


def trains(kind: LayerKind) -> bool:
    """Whether a layer trains the base's weights, which are not quantized then."""
    return LAYERS[kind].trains_weights


KINDS = [kind for kind, own in LAYERS.items() if not (own.is_virtual or own.not_merged)]
"""Those that stand around a linear layer of any model."""
PAIRED: tuple[LayerKind, ...] = ("lora", "dora")
GRAPHS: list[tuple[LayerKind, str]] = [
    *((kind, base) for kind in KINDS for base in ("bfloat16", "nf4") if base == "bfloat16" or not trains(kind)),
    *((kind, base) for kind in PAIRED for base in ("float32", "int8")),
]
"""In float32 `tests/unit/training/test_compile_blocks.py` has every layer."""


def weight(kind: str, double: bool = True) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(0)
    W, bias = torch.randn(OUT, IN, generator=generator), torch.randn(OUT, generator=generator)
    return quantize(W, bias, kind, double=double, dtype=torch.float32, layout=nn.Linear)


@pytest.mark.parametrize(
    ("kind", "double", "dtype"),
    [("nf4", True, torch.float32), ("nf4", False, torch.bfloat16), ("int8", False, torch.float32)],
)
def test_the_operator_is_what_it_says_to_the_compiler(kind: str, double: bool, dtype: torch.dtype) -> None:
    """Its shapes and strides, its gradient, and that it changes nothing."""
    x = torch.randn(3, 5, IN, dtype=dtype, requires_grad=True)
    stored = weight(kind, double).stored()
    found = torch.library.opcheck(quantized_product, (x, *stored))
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_the_operator_computes_what_the_eager_product_does(kind: str) -> None:
    frozen = weight(kind)
    x = torch.randn(3, IN, requires_grad=True)
    upstream = torch.randn(3, OUT)
    y, eager = quantized_product(x, *frozen.stored()), frozen.product(x)
    assert torch.equal(y, eager)
    assert torch.equal(*(torch.autograd.grad(own, x, upstream)[0] for own in (y, eager)))


def model_of(kind: LayerKind, base: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(weight(base) if base in ("nf4", "int8") else nn.Linear(IN, OUT))
    if base == "bfloat16":
        model = model.to(torch.bfloat16)
    parameters = adapt(model, rank=4, layer=kind).parameters.values()
    with torch.no_grad():
        for own in parameters:
            own.add_(0.1 * torch.randn(own.shape))
    return model


def outcome(function: nn.Module, model: nn.Module, base: str) -> tuple[list[Tensor], dict[int, Tensor]]:
    """The output and all gradients, and what was kept for the backward pass beside the model's own tensors, by
    address.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    x = torch.linspace(-1, 1, ROWS * IN).view(ROWS, IN).requires_grad_()
    half = base == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16, half), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = function(x)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [y.detach(), *torch.autograd.grad(y.float().square().sum(), [x, *trained])], kept


@pytest.mark.parametrize(("kind", "base"), GRAPHS)
def test_every_layer_is_one_graph_that_keeps_no_dense_weight(kind: LayerKind, base: str) -> None:
    """With the partition of a graph into two passes that torch's own compiler makes, but without its code."""
    model = model_of(kind, base)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager_decomp_partition", fullgraph=True, dynamic=True)
    (eager, before), (found, kept) = outcome(model, model, base), outcome(compiled, model, base)
    for mine, other in zip(eager, found, strict=True):
        tolerance = 0.02 if base == "bfloat16" else 1e-5
        torch.testing.assert_close(mine.float(), other.float(), atol=tolerance * float(mine.abs().max()), rtol=0)
    assert before or not LAYERS[kind].has_pairs, "nothing is kept in eager mode: the hooks see nothing"
    if not LAYERS[kind].trains_weights:  # their copies in the dtype of products are kept in eager mode too
        assert not [own.shape for own in kept.values() if own.numel() == OUT * IN]
    rows = [sum(own.nbytes for own in all_kept.values() if ROWS in own.shape) for all_kept in (before, kept)]
    assert rows[1] <= rows[0]
