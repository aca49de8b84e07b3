"""What libraries keep once they compute: kernels by shape, in bfloat16 on a CPU."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pytest
import torch

from reflora_cli.planning.devices import named_gpu, own_device
from reflora_cli.planning.libraries import CODE, PRIMITIVE, PRIMITIVES, compiled_bytes, compiles, with_libraries
from reflora_cli.planning.meter import Meter
from reflora_cli.planning.passes import Batch, Products, products_in
from reflora_cli.planning.rows import Epoch

EPOCH = Epoch(tokens=100, padded=120, sequences=8, largest=Batch(2, 16, 5), lengths=3, learned=4)
NEW = 20
needs_compiler = pytest.mark.skipif(not compiles(), reason="products in bfloat16 are not oneDNN's here")


class Mallinfo(ctypes.Structure):
    """glibc's mallinfo2: ten counts, of which the eighth is that of the bytes in use."""

    _fields_ = tuple((f"count{at}", ctypes.c_size_t) for at in range(10))


@needs_compiler
def test_a_product_of_a_new_shape_takes_what_is_counted_for_it() -> None:
    library = ctypes.CDLL(None)
    if not getattr(library, "mallinfo2", None):
        pytest.skip("a C library without mallinfo2")
    library.mallinfo2.restype = Mallinfo
    W = torch.ones(256, 128, dtype=torch.bfloat16)
    inputs = [torch.ones(64 + 8 * own, 128, dtype=torch.bfloat16) for own in range(NEW + 1)]
    torch.nn.functional.linear(inputs[0], W)
    before = library.mallinfo2().count7
    for x in inputs[1:]:
        torch.nn.functional.linear(x, W)
    kept = (library.mallinfo2().count7 - before) / NEW
    assert kept == pytest.approx(CODE + PRIMITIVE, rel=0.5)


@needs_compiler
def test_every_shape_of_an_epoch_is_counted() -> None:
    products, dtype = Products(of_tokens=10, of_learned=2), torch.bfloat16
    assert compiled_bytes(products, EPOCH, dtype, "cpu") == (10 * 3 + 2 * 4) * (CODE + PRIMITIVE)
    assert compiled_bytes(products, None, dtype, "cpu") == 12 * (CODE + PRIMITIVE)
    many = compiled_bytes(products, replace(EPOCH, lengths=1000), dtype, "cpu")
    assert many == 10_008 * CODE + PRIMITIVES * PRIMITIVE  # the oldest are forgotten


def test_float32_and_gpus_compile_none() -> None:
    assert compiled_bytes(Products(10, 2), EPOCH, torch.float32, "cpu") == 0
    assert compiled_bytes(Products(10, 2), EPOCH, torch.bfloat16, "cuda") == 0


def test_products_are_told_apart_by_shape() -> None:
    batch, W = Batch(2, 16, 5), torch.ones(8, 8)
    with Meter() as meter:
        for _ in range(3):
            torch.ones(2 * 16, 8) @ W
        torch.ones(5, 8) @ W
        torch.ones(2, 16, 8) @ torch.ones(2, 8, 16)
    assert products_in(meter, batch) == Products(of_tokens=2, of_learned=1)


def test_only_a_cpu_s_fixed_part_is_what_this_process_has() -> None:
    gpu = named_gpu("12 GB")
    assert with_libraries(gpu, torch.bfloat16) == gpu
    state = torch.get_rng_state()
    here = with_libraries(replace(own_device(), kind="cpu", fixed=0), torch.float32)
    assert here.fixed > 50 * 2**20
    assert torch.equal(torch.get_rng_state(), state)  # what is drawn later does not depend on it
