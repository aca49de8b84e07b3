"""(IA)^3's layers against their definition in float64 and against PEFT's."""

from __future__ import annotations

import copy
from pathlib import Path

import peft
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from reflora_cli import adapt
from reflora_cli.adapter_io.config import NamedBase
from reflora_cli.adapter_io.files import adapter_tensors, read_adapter, write_adapter, write_adapter_config
from reflora_cli.adapter_io.formats import adapter_config
from reflora_cli.adapter_io.loading import load_adapter
from reflora_cli.adapters.frozen import FrozenWeight, freeze
from reflora_cli.adapters.ia3 import IA3Input, IA3Linear, IA3Output
from reflora_cli.adapters.quantized import quantize
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from tests.models import HEADS, batch, descend, injected, make

OUT, IN = 24, 64
INPUTS = {
    "bert": ("output.dense",), "deberta": ("output.dense",), "gpt2": ("mlp.c_proj",), "llama": ("down_proj",)
}  # fmt: skip
"""PEFT's names of feed-forward modules."""
TARGETS = {
    "bert": ("key", "value", "output.dense"),
    "deberta": ("key_proj", "value_proj", "output.dense"),
    "gpt2": ("c_attn", "mlp.c_proj"),
    "llama": ("k_proj", "v_proj", "down_proj"),
}


def frozen_of(base: str) -> FrozenWeight:
    torch.manual_seed(0)
    if base == "conv1d":
        module = Conv1D(OUT, IN)
        nn.init.normal_(module.bias)
        return freeze(module)
    linear = nn.Linear(IN, OUT, bias=base != "linear without bias")
    if base in ("nf4", "int8"):
        return quantize(linear.weight.data, linear.bias, base, double=True, dtype=torch.float32, layout=nn.Linear)
    return freeze(linear)


@pytest.mark.parametrize("base", ["linear", "linear without bias", "conv1d", "nf4", "int8"])
@pytest.mark.parametrize("kind", [IA3Output, IA3Input])
def test_value_gradients_and_merged_module_are_those_of_the_definition(base: str, kind: type[IA3Linear]) -> None:
    layer = kind(frozen_of(base), torch.randn(OUT if kind is IA3Output else IN))
    x, upstream = torch.randn(2, 3, IN, requires_grad=True), torch.randn(2, 3, OUT)
    y = layer(x)
    found = torch.autograd.grad(y, [x, layer.l], upstream)
    X, scale = (own.detach().double().requires_grad_() for own in (x, layer.l))
    W, b = layer.frozen.dense().double(), None if layer.bias is None else layer.bias.double()
    expected = scale * F.linear(X, W, b) if kind is IA3Output else F.linear(scale * X, W, b)
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    for mine, other in zip(found, torch.autograd.grad(expected, [X, scale], upstream.double()), strict=True):
        torch.testing.assert_close(mine.double(), other, atol=5e-5, rtol=1e-4)
    plain = layer.plain(torch.float32)
    torch.testing.assert_close(plain(x).double(), expected, atol=1e-5, rtol=1e-5)
    assert not any(own.requires_grad for own in plain.parameters())
    bias = layer.frozen.bias
    assert bias is None or layer.bias is bias
    kept = layer.tensors()["ia3_l"]
    assert kept.shape == ((OUT, 1) if kind is IA3Output else (1, IN))


def with_biases(model: nn.Module) -> nn.Module:
    """Biases that are not zero, which outputs are scaled with."""
    generator = torch.Generator().manual_seed(5)
    for name, own in model.named_parameters():
        if name.endswith("bias"):
            own.data.add_(0.3 * torch.randn(own.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", list(TARGETS))
def test_twenty_steps_follow_peft_and_files_are_peft_s(name: str, tmp_path: Path) -> None:
    base = with_biases(make(name))
    ours = copy.deepcopy(base)
    method = Method(name="ia3", targets=TARGETS[name], layer={"kind": "ia3", "feedforward": list(INPUTS[name])})
    adapted = injected(ours, method, HEADS[name], HEADS[name])
    config = peft.IA3Config(task_type="SEQ_CLS", target_modules=list(TARGETS[name]),
                            feedforward_modules=list(INPUTS[name]), modules_to_save=list(HEADS[name]),
                            fan_in_fan_out=name == "gpt2")  # fmt: skip
    theirs = peft.get_peft_model(copy.deepcopy(base), config)
    assert descend(ours) == pytest.approx(descend(theirs), abs=1e-5)
    reference = peft.get_peft_model_state_dict(theirs)
    assert {type(own) for own in adapted.layers.values()} == {IA3Input, IA3Output}
    for path, layer in adapted.layers.items():
        own = layer.tensors()["ia3_l"]
        assert (own - 1).abs().max() > 1e-2
        torch.testing.assert_close(own.detach(), reference[f"base_model.model.{path}.ia3_l"], atol=1e-5, rtol=0)

    (inputs, _), fresh = batch(seed=9), [copy.deepcopy(base) for _ in range(2)]
    theirs.save_pretrained(tmp_path / "theirs")
    load_adapter(fresh[0], read_adapter(tmp_path / "theirs"), HEADS[name])
    (tmp_path / "ours").mkdir()
    written = adapter_config(ours, adapted, method, HEADS[name], NamedBase("base", None), "SEQ_CLS")
    write_adapter_config(tmp_path / "ours", written, {})
    write_adapter(tmp_path / "ours", adapter_tensors(ours, adapted, HEADS[name]))
    read = peft.PeftModel.from_pretrained(fresh[1], str(tmp_path / "ours"))
    with torch.no_grad():
        expected = ours.eval()(**inputs).logits
        for model in (theirs, fresh[0], read):
            torch.testing.assert_close(model.eval()(**inputs).logits, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", list(TARGETS))
def test_second_matrices_of_feed_forward_layers_are_known_by_their_usual_names(name: str) -> None:
    adapted = injected(make(name), Method(name="ia3"), HEADS[name], HEADS[name])
    inputs = {path for path, own in adapted.layers.items() if isinstance(own, IA3Input)}
    assert len(inputs) == 2
    assert all(path.endswith(INPUTS[name]) and "attention" not in path for path in inputs)


def test_dropout_is_refused_and_a_preset_takes_it_back() -> None:
    with pytest.raises(
        ValidationError, match=r"dropout=0\.1 has no meaning with method.layer=ia3; leave method\.dropout out"
    ):
        Method(name="ia3", dropout=0.1)
    with pytest.raises(InputError, match="dropout"):
        adapt(make("bert"), layer="ia3", dropout=0.1)
    assert Method(name="ia3", rank=4, alpha=2.0).summary == "ia3"
