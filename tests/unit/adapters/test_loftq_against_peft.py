"""The first twenty steps of LoftQ and LQ-LoRA against PEFT's, also where s is not 1 and after several rounds.

PEFT's two ways to LoftQ make the same factors whatever s is, and then multiply their product by s. Divided by the root
of s they are right. Its devices are a GPU's: here they are the CPU, on which bitsandbytes dequantizes rightly where
rows are multiples of 64.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import bitsandbytes
import peft
import pytest
import torch
from peft.utils.loftq_utils import replace_lora_weights_loftq
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig, PreTrainedModel

from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.adapters.quantized import QuantizedWeight, quantize
from reflora_cli.methods.method import Method
from tests.models import MODELS, descend, injected
from tests.random_models import classifier, widened

RANK = 4
Layers = dict[str, LowRankLayer]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that PEFT sends to a GPU stay here."""
    move, pack = torch.Tensor.to, bitsandbytes.nn.Params4bit.to

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return move(self, *("cpu" if own == "cuda" else own for own in args), **kwargs)

    def to_packed(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return pack(self, *("cpu" if own == "cuda" else own for own in args), **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(bitsandbytes.nn.Params4bit, "to", to_packed)


@pytest.fixture(scope="module")
def base() -> PreTrainedModel:
    """BERT, 64 wide: its weights are what is quantized."""
    torch.manual_seed(0)
    return widened(classifier(MODELS["bert"], vocab_size=60, num_labels=3, hidden_size=64, intermediate_size=128), 0.2)


def ours(base: PreTrainedModel, alpha: float, rounds: int, kind: str = "loftq") -> tuple[nn.Module, Layers]:
    """The model with NF4 weights, without double quantization as in PEFT's LoftQ, and the start of that kind."""
    model = copy.deepcopy(base)
    for name, module in list(model.bert.named_modules(prefix="bert")):
        if type(module) is nn.Linear:
            W = module.weight.detach()
            own = quantize(W, module.bias, "nf4", double=False, dtype=torch.float32, layout=nn.Linear)
            own.read_original = W.clone
            model.set_submodule(name, own)
    method = Method(name="lora", rank=RANK, alpha=alpha, start={"kind": kind, "rounds": rounds})
    adapted = injected(model, method, ["classifier"], ["classifier"], seed=0)
    return model, {name: own for name, own in adapted.layers.items() if isinstance(own, LowRankLayer)}


def by_peft(base: PreTrainedModel, layers: Layers, alpha: float, rounds: int) -> nn.Module:
    """The model as PEFT's `loftq` begins it."""
    config = peft.LoraConfig(
        r=RANK, lora_alpha=alpha, target_modules=list(layers), modules_to_save=["classifier"],
        init_lora_weights="loftq", loftq_config={"loftq_bits": 4, "loftq_iter": rounds},
    )  # fmt: skip
    return peft.get_peft_model(copy.deepcopy(base), config)


def at(model: nn.Module, path: str) -> Any:
    return model.get_submodule(f"base_model.model.{path}")


def factors(module: Any) -> tuple[nn.Parameter, nn.Parameter]:
    return module.lora_A["default"].weight, module.lora_B["default"].weight


def begin(module: Any, A: Tensor, B: Tensor) -> None:
    with torch.no_grad():
        for own, value in zip(factors(module), (A, B), strict=True):
            own.copy_(value)


def error(base: nn.Module, path: str, begun: Tensor) -> float:
    W: Tensor = base.get_submodule(path).weight
    return float((W.detach().double() - begun.detach().double()).norm())


@pytest.mark.parametrize("alpha", [RANK, 2.0 * RANK, 0.5 * RANK], ids=["s 1", "s 2", "s 0.5"])
@pytest.mark.parametrize("rounds", [1, 3])
def test_twenty_steps_are_peft_s_once_its_factors_are_divided_by_the_root_of_s(
    base: PreTrainedModel, alpha: float, rounds: int
) -> None:
    """After one round each from its own start; after more, in which the last bit of a product may choose another code,
    PEFT's start is as good as ours, and its steps are taken from ours.
    """
    s = alpha / RANK
    model, layers = ours(base, alpha, rounds)
    theirs = by_peft(base, layers, alpha, rounds)
    for path, layer in layers.items():
        module = at(theirs, path)
        A, B = (own.detach() / s**0.5 for own in factors(module))
        begin(module, A, B)
        Q = module.base_layer.weight.detach()
        assert error(base, path, Q + s * B @ A) == pytest.approx(error(base, path, layer.merged()), rel=5e-3)
        if rounds == 1:
            assert torch.equal(Q, layer.frozen.dense())
            torch.testing.assert_close(s * B @ A, s * layer.B @ layer.A, atol=1e-5, rtol=0)
        else:
            with torch.no_grad():
                module.base_layer.weight.copy_(layer.frozen.dense())
            begin(module, layer.A, layer.B)
    before = {path: layer.B.detach().clone() for path, layer in layers.items()}
    assert descend(model) == pytest.approx(descend(theirs), abs=1e-5)
    for path, layer in layers.items():
        A, B = factors(at(theirs, path))
        torch.testing.assert_close(layer.B @ layer.A, B @ A, atol=2e-5, rtol=0)
        assert (layer.B - before[path]).abs().max() > 1e-2


def test_twenty_steps_of_lq_lora_are_peft_s_from_where_it_begins(base: PreTrainedModel) -> None:
    """PEFT has no such start: its base is given our codes, and its pairs our factors."""
    model, layers = ours(base, 2.0 * RANK, 100, "lq-lora")
    theirs = by_peft(base, layers, 2.0 * RANK, 1)
    for path, layer in layers.items():
        with torch.no_grad():
            at(theirs, path).base_layer.weight.copy_(layer.frozen.dense())
        begin(at(theirs, path), layer.A, layer.B)
        assert layer.B.abs().max() > 1e-2
    assert descend(model) == pytest.approx(descend(theirs), abs=1e-5)


@pytest.mark.parametrize("rounds", [1, 3])
def test_peft_s_start_has_the_error_of_the_plain_base_or_more_where_s_is_2_or_more(
    base: PreTrainedModel, rounds: int
) -> None:
    """With R the error of the codes and P its best approximation of rank r, |R - 2 P| = |R|: nothing is corrected."""
    for s in (2.0, 4.0):
        _, layers = ours(base, s * RANK, rounds)
        theirs = by_peft(base, layers, s * RANK, rounds)
        for path, layer in layers.items():
            module = at(theirs, path)
            Q, (A, B) = module.base_layer.weight.detach(), (own.detach() for own in factors(module))
            left = error(base, path, Q)
            found = error(base, path, Q + s * B @ A)
            assert found == pytest.approx(left, rel=1e-3) if s == 2 else found > 1.2 * left
            assert error(base, path, layer.merged()) < 0.95 * left


def test_peft_s_replacement_for_a_quantized_model_is_ours_once_it_is_divided(
    base: PreTrainedModel, tmp_path: Path
) -> None:
    """`replace_lora_weights_loftq`, which has one round, on a model that transformers has quantized."""
    base.save_pretrained(tmp_path)
    few_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32,
        llm_int8_skip_modules=["classifier"],
    )  # fmt: skip
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, quantization_config=few_bits)
    model, layers = ours(base, 2.0 * RANK, 1)
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(layers), modules_to_save=["classifier"])
    theirs = peft.get_peft_model(loaded, config)
    replace_lora_weights_loftq(theirs, str(tmp_path))
    for path, layer in layers.items():
        module = at(theirs, path)
        A, B = (own.detach() for own in factors(module))
        frozen = layer.frozen
        assert isinstance(frozen, QuantizedWeight)
        plain = error(base, path, frozen.dense())
        assert error(base, path, frozen.dense() + 2.0 * B @ A) == pytest.approx(plain, rel=1e-3)
        torch.testing.assert_close(B @ A, 2.0 * layer.B.detach() @ layer.A.detach(), atol=1e-5, rtol=0)
        begin(module, A / 2**0.5, B / 2**0.5)
    assert descend(model) == pytest.approx(descend(theirs), abs=1e-5)
