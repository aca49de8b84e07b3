"""Injection, saving, loading and merging on every layout of linear layers, GPT-2's transposed ones included."""

from __future__ import annotations

import copy
from pathlib import Path

import peft
import pytest
import torch

from reflora_cli.adapter_io.config import NamedBase
from reflora_cli.adapter_io.files import adapter_tensors, read_adapter, write_adapter, write_adapter_config
from reflora_cli.adapter_io.formats import adapter_config
from reflora_cli.adapter_io.loading import load_adapter
from reflora_cli.methods.layers import LAYERS
from reflora_cli.methods.method import Method
from tests.models import ADAPTERS, HEADS, MODELS, batch, injected, make


@pytest.mark.parametrize(
    ("layer", "dropout"),
    [
        (layer, dropout)
        for layer in ADAPTERS
        for dropout in (0.0, 0.2)
        if not dropout or "dropout" not in LAYERS[layer].meaningless
    ],
)
@pytest.mark.parametrize("name", list(MODELS))
def test_adapter_survives_disk_merging_and_peft(name: str, layer: str, dropout: float, tmp_path: Path) -> None:
    """The same logits from the adapted model, from its files, from its merged weights, and from PEFT."""
    base = make(name)
    model = copy.deepcopy(base)
    method = Method(name="lora", rank=3, layer=layer, dropout=dropout)
    adapted = injected(model, method, HEADS[name], HEADS[name], seed=0)
    with torch.no_grad():
        for parameter in adapted.parameters.values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    inputs, _ = batch(seed=1)
    with torch.no_grad():
        expected = model.eval()(**inputs).logits

        written = adapter_tensors(model, adapted, HEADS[name])
        write_adapter(tmp_path, written)
        config = adapter_config(model, adapted, method, HEADS[name], NamedBase("base", None), "SEQ_CLS")
        write_adapter_config(tmp_path, config, {})
        loaded = copy.deepcopy(base)
        restored = load_adapter(loaded, read_adapter(tmp_path), HEADS[name])
        again = adapter_tensors(loaded, restored, HEADS[name])
        assert again.keys() == written.keys()
        assert all(torch.equal(again[key], tensor) for key, tensor in written.items())
        if not LAYERS[layer].read_as:
            assert restored.parameters.keys() == adapted.parameters.keys()
        torch.testing.assert_close(loaded.eval()(**inputs).logits, expected, atol=5e-6, rtol=0)

        for path, own in adapted.layers.items():
            model.set_submodule(path, own.plain(torch.float32))
        torch.testing.assert_close(model(**inputs).logits, expected, atol=2e-5, rtol=1e-5)
        if LAYERS[layer].not_for_peft:
            return
        assert [type(module) for module in model.modules()] == [type(module) for module in base.modules()]
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
        torch.testing.assert_close(theirs(**inputs).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(MODELS))
def test_factors_start_the_same_whatever_else_is_adapted(name: str) -> None:
    """A module's start depends on the seed and its own name only."""
    everything = injected(make(name), Method(name="lora"), HEADS[name], HEADS[name], seed=5)
    path = list(everything.layers)[-1]
    alone = injected(make(name), Method(name="lora", targets=(path,)), HEADS[name], HEADS[name], seed=5)
    other = injected(make(name), Method(name="lora", targets=(path,)), HEADS[name], HEADS[name], seed=6)
    assert list(alone.layers) == [path]
    assert torch.equal(everything.layers[path].A, alone.layers[path].A)
    assert not torch.equal(other.layers[path].A, alone.layers[path].A)


@pytest.mark.parametrize("layer", ADAPTERS)
def test_half_precision_base_keeps_float32_trainables(layer: str) -> None:
    """Forward under autocast, gradients in float32, no NaN."""
    model = make("bert").to(torch.bfloat16)
    adapted = injected(model, Method(name="lora", rank=3, layer=layer), HEADS["bert"], HEADS["bert"], seed=0)
    assert {parameter.dtype for parameter in adapted.parameters.values()} == {torch.float32}
    inputs, labels = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(**inputs).logits
    torch.nn.functional.cross_entropy(logits.float(), labels).backward()
    gradients = [parameter.grad for parameter in adapted.parameters.values()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_dora_row_of_zeros_stays_zero() -> None:
    """A pruned row has norm 0: its output is its bias, not infinity."""
    base = make("bert")
    name = "bert.encoder.layer.0.output.dense"
    with torch.no_grad():
        base.get_submodule(name).weight[3] = 0
    adapted = injected(base, Method(name="dora", rank=2, targets=(name,)), [], [], seed=0)
    layer = adapted.layers[name]
    x = torch.randn(4, 32)
    assert layer(x).isfinite().all()
    assert torch.equal(layer(x)[:, 3], layer.bias[3].expand(4))
    assert not layer.merged()[3].any()


def test_dora_norms_are_those_of_the_dense_sum() -> None:
    base = make("bert")
    adapted = injected(base, Method(name="dora", rank=3), HEADS["bert"], HEADS["bert"], seed=0)
    for layer in adapted.layers.values():
        with torch.no_grad():
            layer.B.normal_()
        dense = layer.dense_sum().double().norm(dim=1).float()
        torch.testing.assert_close(layer.row_norms(), dense, atol=1e-5, rtol=1e-5)
