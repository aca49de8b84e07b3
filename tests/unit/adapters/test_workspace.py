"""A dense weight in memory that is used again has the bits of one in new memory, and nothing that lasts is in it."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from reflora_cli.adapters import workspace
from reflora_cli.adapters.quantized import QuantizedWeight, quantize
from reflora_cli.adapters.workspace import Workspace, is_known, is_recorded, is_writable, lent

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
needs_function = pytest.mark.skipif(not is_known(), reason="another bitsandbytes, which makes weights in new memory")


def quantized(kind: str, shape: tuple[int, int], *, double: bool = True, dtype: torch.dtype = torch.float32,
              seed: int = 0) -> QuantizedWeight:  # fmt: skip
    W = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return quantize(W, None, kind, double=double, dtype=dtype, layout=nn.Linear)


@needs_function
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_lent_weight_has_the_bits_of_a_dequantized_one(kind: str, double: bool, dtype: torch.dtype) -> None:
    frozen = quantized(kind, (100, 192), double=double, dtype=dtype)
    assert is_writable(frozen)
    with torch.no_grad():
        found = lent(frozen)
    assert found.dtype is dtype
    assert torch.equal(found, frozen.dequantized())


@needs_function
def test_the_next_weight_stands_in_the_same_memory_and_a_larger_one_takes_its_place() -> None:
    small, large = quantized("nf4", (64, 64)), quantized("nf4", (128, 128), seed=1)
    with torch.no_grad():
        lent(large)
        first = lent(small)
        address, again = first.data_ptr(), lent(quantized("nf4", (32, 128), seed=2))
    assert again.data_ptr() == address
    assert torch.equal(again, quantized("nf4", (32, 128), seed=2).dequantized())


@needs_function
@pytest.mark.parametrize(("kind", "shape"), [("int8", (64, 64)), ("nf4", (128, 96)), ("nf4", (3, 10))], ids=str)
def test_other_weights_are_made_in_new_memory(kind: str, shape: tuple[int, int]) -> None:
    frozen = quantized(kind, shape)
    with torch.no_grad():
        first, second = lent(frozen), lent(frozen)
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, frozen.dequantized())


def test_what_autograd_may_keep_is_in_new_memory() -> None:
    frozen, other = quantized("nf4", (64, 128)), quantized("nf4", (64, 128), seed=1)
    g = torch.ones(2, 64, requires_grad=True)
    found = frozen.transposed_product(g)  # its backward pass needs W, which autograd has kept
    with torch.no_grad():
        other.transposed_product(torch.ones(2, 64))
    (gradient,) = torch.autograd.grad(found.sum(), g)
    torch.testing.assert_close(gradient, frozen.dequantized().sum(dim=1).expand(2, -1))


def test_layers_in_a_row_have_the_gradients_of_dense_layers() -> None:
    layers = [quantized("nf4", (64, 64), seed=own) for own in range(3)]
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(9), requires_grad=True)
    y: Tensor = x
    dense = x.detach().double().requires_grad_()
    z: Tensor = dense
    for layer in layers:
        y, z = torch.tanh(layer(y)), torch.tanh(z @ layer.dequantized().double().T)
    y.sum().backward()  # type: ignore[no-untyped-call]
    z.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert dense.grad is not None
    torch.testing.assert_close(x.grad.double(), dense.grad, atol=1e-4, rtol=1e-4)


@needs_function
def test_threads_do_not_share_memory() -> None:
    addresses = []
    with torch.no_grad():
        addresses.append(lent(quantized("nf4", (64, 64))).data_ptr())

    def run() -> None:
        with torch.no_grad():
            addresses.append(lent(quantized("nf4", (64, 64))).data_ptr())

    other = threading.Thread(target=run)
    other.start()
    other.join()
    assert len({*addresses}) == 2


def test_another_version_makes_weights_in_new_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "version", lambda _: "9.9.9")
    is_known.cache_clear()
    try:
        assert not is_writable(quantized("nf4", (64, 64)))
    finally:
        is_known.cache_clear()


def test_memory_of_one_size_is_kept() -> None:
    own = Workspace()
    first = own.matrix(4, 8, torch.float32)
    assert own.matrix(2, 16, torch.float32).data_ptr() == first.data_ptr()
    assert own.matrix(8, 8, torch.float32).shape == (8, 8)


@needs_function
def test_memory_is_on_the_cpu_whatever_the_default_device_is() -> None:
    """The function writes to an address, where another device would have none, or one of its own."""
    with torch.device("meta"):
        assert Workspace().matrix(2, 2, torch.float32).is_cpu


@needs_function
def test_weights_are_made_by_torch_where_operations_are_recorded() -> None:
    frozen = quantized("nf4", (64, 64))
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        assert type(lent(frozen)) is FakeTensor
    seen = list[bool]()

    def product(x: Tensor) -> Tensor:
        seen.append(is_recorded())
        return x

    torch.jit.trace(product, torch.ones(1), check_trace=False)
    assert seen == [True]
    assert not is_recorded()


@needs_function
def test_norms_of_rows_are_computed_in_the_same_memory() -> None:
    frozen, A = quantized("nf4", (64, 128)), torch.randn(4, 128)
    W = frozen.dequantized()
    with torch.no_grad():
        address = lent(frozen).data_ptr()
        (rows,) = frozen.float_rows()
        assert rows.data_ptr() == address
        torch.testing.assert_close(frozen.row_products(A), W @ A.T)
    torch.testing.assert_close(frozen.row_square_sums(), W.square().sum(dim=1))
