"""Devices and dtypes: what `auto` is, who scores which rows, and what forward passes compute in."""

from __future__ import annotations

import torch

from reflora_cli.methods.settings import Dtype
from reflora_cli.model.precision import Compute, precision, resolve_dtype

CPU = torch.device("cpu")


def test_auto_is_float32_on_a_cpu_and_a_name_is_itself() -> None:
    assert resolve_dtype(Dtype.AUTO, CPU) is torch.float32
    for dtype in set(Dtype) - {Dtype.AUTO}:
        assert str(resolve_dtype(dtype, CPU)) == f"torch.{dtype}"


def test_processes_share_rows_out_unless_the_base_is_split_among_them() -> None:
    assert Compute(CPU, torch.float32, rank=2, processes=4).scoring == (2, 4)
    assert Compute(CPU, torch.float32, rank=2, processes=4, sharded=True).scoring == (0, 1)


def test_products_are_in_the_dtype_of_the_base() -> None:
    x, linear = torch.ones(2, 3), torch.nn.Linear(3, 3)
    for dtype in (torch.float32, torch.bfloat16):
        with precision(CPU, dtype):
            assert linear(x).dtype is dtype
