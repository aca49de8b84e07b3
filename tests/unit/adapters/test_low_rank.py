"""A base that is moved beneath a layer: what the layer then computes, stores and is restored to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from reflora_cli.adapter_io.lora import split_early
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.dora import DoRALinear
from reflora_cli.adapters.frozen import FrozenWeight, freeze
from reflora_cli.adapters.lora import LoRALinear
from reflora_cli.adapters.low_rank import FILE_A, FILE_B, LowRankLayer, exact_product
from reflora_cli.adapters.quantized import QuantizedWeight, quantize
from reflora_cli.adapters.start import take_up

OUT, IN, RANK = 24, 64, 3
LAYERS = (LoRALinear, DoRALinear)
KINDS = ("none", "bfloat16", "transposed", "nf4", "fp4", "int8")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def base(kind: str) -> nn.Module:
    """A linear layer whose weight is stored in one of the ways."""
    if kind == "transposed":
        module: nn.Module = Conv1D(OUT, IN)
    else:
        module = nn.Linear(IN, OUT)
    module.bias.data = drawn(OUT, seed=9)
    weight = drawn(OUT, IN)
    module.weight.data = weight.T.contiguous() if kind == "transposed" else weight
    if kind == "bfloat16":
        return module.bfloat16()
    if kind in ("nf4", "fp4", "int8"):
        return quantize(weight, module.bias, kind, double=True, dtype=torch.float32, layout=nn.Linear)
    return module


def layer_on(kind: str, own: type[LowRankLayer], scale: float = 1.7) -> LowRankLayer:
    return own(freeze(base(kind)), (drawn(RANK, IN, seed=1), drawn(OUT, RANK, seed=2)), scale, 0.0)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_move_adds_the_update_and_rounds_once(kind: str) -> None:
    """Against float64, to the bit: whatever computes the product, the frozen weight is the same."""
    layer = layer_on(kind, LoRALinear)
    before, shared = layer.frozen.dense(), layer.frozen.weight
    A, B = drawn(5, IN, seed=3), drawn(OUT, 5, seed=4)
    layer.move(A, B)
    change = (1.7 * B.double() @ A.double()).float()
    expected = (before + change).to(layer.frozen.weight.dtype).float()
    assert torch.equal(layer.frozen.dense(), expected)
    assert layer.frozen.weight.dtype is shared.dtype
    assert torch.equal(freeze(base(kind)).dense(), before)
    assert layer.frozen.weight.data_ptr() != shared.data_ptr()


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_a_quantized_base_is_moved_and_quantized_again(kind: str) -> None:
    layer = layer_on(kind, LoRALinear)
    A, B = drawn(5, IN, seed=3), drawn(OUT, 5, seed=4)
    wanted = layer.frozen.dense() + (1.7 * B.double() @ A.double()).float()
    layer.move(A, B)
    frozen = layer.frozen
    assert isinstance(frozen, QuantizedWeight)
    again = quantize(wanted, None, kind, double=True, dtype=torch.float32, layout=nn.Linear)
    assert torch.equal(frozen.weight, again.weight)
    # The widest gap between two levels of NF4 is 0.304 of a block's largest weight, of FP4 1/3, of int8 1/127.
    gap = {"nf4": 0.304, "fp4": 1 / 3, "int8": 1 / 127}[kind]
    assert bool(((frozen.dense() - wanted).abs() <= 0.55 * gap * wanted.abs().max()).all())
    assert not torch.equal(frozen.dense(), wanted)


@pytest.mark.parametrize("own", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_restored_from_its_file_to_the_bit(kind: str, own: type[LowRankLayer]) -> None:
    layer = layer_on(kind, own)
    layer.move(drawn(2, IN, seed=3), drawn(OUT, 2, seed=4))
    tensors = {key: tensor.detach().clone() for key, tensor in layer.tensors().items()}
    assert (tensors[FILE_A].shape, tensors[FILE_B].shape) == ((RANK + 2, IN), (OUT, RANK + 2))
    if kind in ("none", "transposed"):
        # The file is a plain LoRA of higher rank on the checkpoint's own weight.
        whole = freeze(base(kind)).dense().double() + 1.7 * tensors[FILE_B].double() @ tensors[FILE_A].double()
        assert (layer.dense_sum() - whole).abs().max() < 1e-6 * whole.abs().max()
    restored = own.restored(freeze(base(kind)), tensors, 1.7, 0.0, 2)
    assert (restored.rank, restored.offset_rank) == (RANK, 2)
    x = drawn(4, IN, seed=7).to(layer.bias.dtype if layer.bias is not None else torch.float32)
    assert torch.equal(restored(x), layer(x))
    assert torch.equal(restored.merged(), layer.merged())


@pytest.mark.parametrize("kind", KINDS)
def test_dora_s_norms_follow_a_move(kind: str) -> None:
    layer = layer_on(kind, DoRALinear)
    assert isinstance(layer, DoRALinear)
    layer.current_norms()
    layer.move(drawn(5, IN, seed=3), drawn(OUT, 5, seed=4))
    expected = (layer.frozen.dense().double() + 1.7 * layer.B.double() @ layer.A.double()).norm(dim=1)
    torch.testing.assert_close(layer.current_norms().double(), expected, atol=1e-4, rtol=1e-5)
    layer.begin(drawn(2, IN, seed=5), drawn(OUT, 2, seed=6))
    expected = (layer.frozen.dense().double() + 1.7 * layer.B.double() @ layer.A.double()).norm(dim=1)
    torch.testing.assert_close(layer.current_norms().double(), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("own", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_moves_a_new_layer_to_the_same_bits(kind: str, own: type[LowRankLayer]) -> None:
    layer = layer_on(kind, own)
    layer.move(drawn(2, IN, seed=3), drawn(OUT, 2, seed=4))
    saved = {f"m.{name}": tensor.clone() for name, tensor in (layer.named_parameters())} | {
        f"m.{name}": tensor.clone() for name, tensor in layer.constants().items()
    }
    fresh = own(freeze(base(kind)), (torch.zeros(1, IN), torch.zeros(OUT, 1)), 1.7, 0.0)
    take_up(Adapted({"m": fresh}, {}, {}), saved)
    assert torch.equal(fresh.frozen.dense(), layer.frozen.dense())
    assert torch.equal(fresh.A, layer.A)
    assert torch.equal(fresh.tensors()[FILE_B], layer.tensors()[FILE_B])
    # What has its offset already, from an earlier adapter, is not moved twice.
    take_up(Adapted({"m": fresh}, {}, {}), saved)
    assert torch.equal(fresh.frozen.dense(), layer.frozen.dense())


def test_factors_lie_row_by_row_however_they_were_computed() -> None:
    """A decomposition gives columns; what is read from a file are rows, with which products round differently."""
    layer = layer_on("none", LoRALinear)
    A, B = drawn(IN, RANK).T, drawn(RANK, OUT).T
    assert not A.is_contiguous()
    layer.move(A, B)
    layer.begin(A, B)
    assert all(own.is_contiguous() for own in (layer.A, layer.B, *layer.constants().values()))
    assert torch.equal(layer.A, A)


def test_moves_add_up() -> None:
    layer, at_once = layer_on("none", LoRALinear), layer_on("none", LoRALinear)
    parts = [(drawn(n, IN, seed=n), drawn(OUT, n, seed=n + 9)) for n in (1, 2, 4)]
    for A, B in parts:
        layer.move(A, B)
    at_once.move(torch.cat([A for A, _ in parts]), torch.cat([B for _, B in parts], dim=1))
    torch.testing.assert_close(layer.frozen.dense(), at_once.frozen.dense(), atol=1e-5, rtol=1e-5)
    assert torch.equal(layer.tensors()[FILE_A], at_once.tensors()[FILE_A])


@pytest.mark.parametrize("own", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_taken_out_before_quantization_is_restored_to_the_bit(kind: str, own: type[LowRankLayer]) -> None:
    """The frozen weight is the quantized W_0 + s B A, and not the quantized W with s B A added; of the file, the early
    ranks are the last."""

    def frozen() -> FrozenWeight:
        found = freeze(base(kind))
        if isinstance(found, QuantizedWeight):
            found.read_original = lambda: drawn(OUT, IN)
        return found

    layer = own(frozen(), (drawn(RANK, IN, seed=1), drawn(OUT, RANK, seed=2)), 1.7, 0.0)
    A, B = drawn(2, IN, seed=3), drawn(OUT, 2, seed=4)
    layer.move_early(A, B)
    if kind in ("nf4", "fp4", "int8"):
        moved = drawn(OUT, IN) + (1.7 * B.double() @ A.double()).float()
        expected = quantize(moved, None, kind, double=True, dtype=torch.float32, layout=nn.Linear)
        assert torch.equal(layer.frozen.weight, expected.weight)
        assert not torch.equal(layer.frozen.dense(), frozen().moved(exact_product(A, B, 1.7)).dense())
    layer.move(drawn(1, IN, seed=5), drawn(OUT, 1, seed=6))
    assert (layer.early_rank, layer.offset_rank) == (2, 3)
    tensors = {key: tensor.detach().clone() for key, tensor in layer.tensors().items()}
    assert torch.equal(tensors[FILE_A][-2:], A)
    restored = own.restored(frozen(), split_early(tensors, 2), 1.7, 0.0, 1)
    assert torch.equal(restored.merged(), layer.merged())
    assert restored.constants().keys() == layer.constants().keys()
