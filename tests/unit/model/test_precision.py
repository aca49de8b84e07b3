"""Devices and dtypes: what `auto` is, who scores which rows, and what forward passes compute in."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from reflora_cli.methods.settings import Dtype
from reflora_cli.model.precision import Compute, is_emulated, precision, resolve_dtype

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


@pytest.mark.parametrize("has_bfloat16", [False, True])
@pytest.mark.parametrize("has_float16", [False, True])
def test_a_dtype_is_emulated_where_the_cpu_has_no_products_of_it(
    has_bfloat16: bool, has_float16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = SimpleNamespace(
        _is_mkldnn_bf16_supported=lambda: has_bfloat16, _is_mkldnn_fp16_supported=lambda: has_float16
    )
    monkeypatch.setattr(torch.ops, "mkldnn", known)
    assert is_emulated(CPU, torch.bfloat16) is not has_bfloat16
    assert is_emulated(CPU, torch.float16) is not has_float16
    assert not is_emulated(CPU, torch.float32)
    assert not is_emulated(torch.device("cuda"), torch.bfloat16)
