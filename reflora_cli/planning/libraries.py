"""What a CPU's libraries take once they compute: pages that the first pass touches, and kernels compiled on the way.

In bfloat16 torch gives products to oneDNN, which compiles a kernel for every shape that it meets and keeps it: rows of
other lengths are other shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from reflora_cli.model.precision import precision
from reflora_cli.planning.devices import Device, resident
from reflora_cli.planning.passes import Products
from reflora_cli.planning.rows import Epoch

CODE = 262 * 2**10
"""The bytes of a compiled kernel's code that stay for good: measured over 20 shapes of 5 layers each, AVX-512."""
PRIMITIVE = 277 * 2**10
"""What is kept beside it of the latest products, measured likewise: with no cache (ONEDNN_PRIMITIVE_CACHE_CAPACITY=0)
only the code stays."""
PRIMITIVES = 1024
"""The products that oneDNN remembers: its documentation of the primitive cache."""
WIDTH, HEADS, TOKENS = 64, 2, 8
CPU = torch.device("cpu")


def with_libraries(device: Device, dtype: torch.dtype) -> Device:
    """Return the device with what this process has in memory now, where that is what a run would have: on a CPU, once
    libraries and rows are loaded and no weights are.
    """
    if device.kind != "cpu":
        return device
    touch(dtype)
    return replace(device, fixed=resident())


def touch(dtype: torch.dtype) -> None:
    """Run a pass and a step of a very small model, so that the parts of libraries that compute are in memory."""
    with torch.random.fork_rng(devices=[]):
        embed = nn.Embedding(TOKENS, WIDTH)
        block = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, dropout=0.1, batch_first=True)
        model = nn.Sequential(embed, block, nn.Linear(WIDTH, TOKENS)).to(dtype)
        tokens = torch.arange(TOKENS)
        with precision(CPU, dtype):
            loss = nn.functional.cross_entropy(model(tokens[None])[0], tokens)
    optimizer = torch.optim.AdamW(model.parameters())
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def compiled_bytes(products: Products, epoch: Epoch | None, dtype: torch.dtype, device: str) -> int:
    """Return the bytes of the kernels that a CPU compiles for the products of an epoch's passes; one pass's where rows
    are not known.
    """
    if device != "cpu" or dtype is not torch.bfloat16 or not compiles():
        return 0
    lengths, learned = (epoch.lengths, epoch.learned) if epoch else (1, 1)
    count = products.of_tokens * lengths + products.of_learned * learned
    return count * CODE + min(count, PRIMITIVES) * PRIMITIVE


def compiles() -> bool:
    """Whether this machine's products in bfloat16 are oneDNN's."""
    available: Callable[[], bool] = torch.backends.mkldnn.is_available
    return available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
