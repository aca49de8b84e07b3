"""Parameters trained where they are: which ones, as torch trains them, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reflora_cli.adapters.adaptation import adapt
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.quantized import quantize
from reflora_cli.factors.pair import Role
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from reflora_cli.optim.build import Rates, build_optimizer
from reflora_cli.training.prepare import roles_in
from tests.architectures import DECODERS
from tests.models import HEADS, MODELS, batch, injected, make, stepped
from tests.random_models import language_model

RATES = Rates(1e-3, 5e-3, 0.1)
"""Rates of parameters in place and of heads, and the decay of matrices."""


def trained(model: nn.Module, method: Method, name: str) -> tuple[Adapted, list[float]]:
    """The model after some steps by our optimizer."""
    adapted = injected(model, method, HEADS[name], HEADS[name])
    return adapted, stepped(model, build_optimizer(method, roles_in(adapted), RATES))


def by_torch(model: nn.Module, name: str, only: str) -> list[float]:
    """Losses of torch's AdamW on the parameters whose names end in `only`, and on the head."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, parameter in model.named_parameters():
        is_head = path.partition(".")[0] in HEADS[name]
        parameter.requires_grad_(is_head or path.endswith(only))
        rates = 5e-3 if is_head else 1e-3, 0.1 if parameter.ndim >= 2 else 0.0
        groups.setdefault(rates, []).extend([parameter] if parameter.requires_grad else [])
    own = [{"params": own, "lr": rate, "weight_decay": decay} for (rate, decay), own in groups.items() if own]
    return stepped(model, torch.optim.AdamW(own))


@pytest.mark.parametrize(("preset", "only"), [("full", ""), ("bitfit", "bias")])
@pytest.mark.parametrize("name", list(MODELS))
def test_twenty_steps_are_those_of_torch(name: str, preset: str, only: str) -> None:
    ours, theirs = make(name), make(name)
    before = copy.deepcopy(ours.state_dict())
    if name == "llama" and preset == "bitfit":
        with pytest.raises(InputError, match="no biases"):
            trained(ours, Method(name=preset), name)
        return
    adapted, losses = trained(ours, Method(name=preset), name)
    assert losses == pytest.approx(by_torch(theirs, name, only), abs=1e-6)
    reference, own = dict(theirs.named_parameters()), dict(ours.named_parameters())
    for path, parameter in own.items():
        torch.testing.assert_close(parameter, reference[path], atol=1e-6, rtol=0, msg=path)
        assert torch.equal(parameter, before[path]) == (path not in adapted.parameters), path
    assert len(adapted.in_place) > 10


def test_twenty_steps_of_biases_are_those_of_peft() -> None:
    """PEFT trains all biases beside factors, which are frozen here and, with B at zero, compute nothing."""
    ours, theirs = make("bert"), make("bert")
    config = peft.LoraConfig(r=2, target_modules=["query"], bias="all", modules_to_save=["classifier"])
    wrapped = peft.get_peft_model(theirs, config)
    kept = {name: parameter for name, parameter in wrapped.named_parameters() if "lora_" not in name}
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in kept)
    adapted, losses = trained(ours, Method(name="bitfit"), "bert")
    heads = [parameter for name, parameter in kept.items() if parameter.requires_grad and "modules_to_save" in name]
    biases = [p for name, p in kept.items() if p.requires_grad and "modules_to_save" not in name]
    groups = [
        {"params": biases, "lr": 1e-3, "weight_decay": 0.0},
        {"params": [p for p in heads if p.ndim >= 2], "lr": 5e-3, "weight_decay": 0.1},
        {"params": [p for p in heads if p.ndim < 2], "lr": 5e-3, "weight_decay": 0.0},
    ]
    assert losses == pytest.approx(stepped(wrapped, torch.optim.AdamW(groups)), abs=1e-5)
    assert len(biases) == len(adapted.in_place)


def test_roles_follow_the_number_of_dimensions() -> None:
    adapted = injected(make("bert"), Method(name="full"), HEADS["bert"], HEADS["bert"])
    decayed, undecayed = adapted.of_role(Role.DECAYED), adapted.of_role(Role.UNDECAYED)
    assert {parameter.ndim for parameter in decayed.values()} == {2}
    assert {parameter.ndim for parameter in undecayed.values()} == {1}
    assert decayed.keys() | undecayed.keys() == adapted.in_place.keys()
    assert adapted.pairs == []


def test_targets_name_modules_of_any_kind() -> None:
    method = Method(name="full", targets=("encoder.layer.0", r".*\.embeddings\.(word|position)_embeddings", "query"))
    model = make("bert")
    adapted = injected(model, method, HEADS["bert"], HEADS["bert"])
    expected = {
        name
        for name, _ in model.named_parameters()
        if name.startswith("bert.encoder.layer.0.") or ".query." in name or "word_emb" in name or "position_emb" in name
    }
    assert adapted.in_place.keys() == expected
    assert list(adapted.matches) == list(method.targets)
    assert adapted.matches[method.targets[1]] == 2
    assert {name for name, p in model.named_parameters() if p.requires_grad} == adapted.parameters.keys()


@pytest.mark.parametrize(
    ("preset", "target", "words"),
    [
        ("full", "querry", "matches no module of the model.*query"),
        ("full", "classifier", "matches only modules without parameters to train"),
        ("bitfit", "word_embeddings", "matches only modules without biases to train"),
    ],
)
def test_a_target_that_chooses_nothing_is_refused(preset: str, target: str, words: str) -> None:
    with pytest.raises(InputError, match=f"(?s){words}"):
        injected(make("bert"), Method(name=preset, targets=(target,)), HEADS["bert"], HEADS["bert"])


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_a_tied_weight_trains_once_under_its_first_name(target: str) -> None:
    model: Any = language_model(DECODERS["llama"], vocab_size=60, tie_word_embeddings=True)
    adapted = injected(model, Method(name="full", targets=(target,)), [], [])
    assert list(adapted.in_place) == ["model.embed_tokens.weight"]
    assert model.lm_head.weight is model.model.embed_tokens.weight is adapted.in_place["model.embed_tokens.weight"]


def test_what_an_architecture_holds_constant_is_not_trained() -> None:
    model = make("bert")
    constant = "bert.embeddings.position_embeddings.weight"
    model.get_parameter(constant).requires_grad_(False)
    adapted = injected(model, Method(name="full"), HEADS["bert"], HEADS["bert"])
    assert constant not in adapted.parameters
    assert len(adapted.parameters) == len(list(model.parameters())) - 1


@pytest.mark.parametrize("preset", ["full", "bitfit"])
def test_half_precision_is_trained_in_float32(preset: str) -> None:
    """The first value is the base's own, to the bit; the rest of the base keeps its dtype, but for vectors of norms."""
    model = make("bert").to(torch.bfloat16)
    base = copy.deepcopy(model.state_dict())
    adapted = injected(model, Method(name=preset), HEADS["bert"], HEADS["bert"])
    assert all(torch.equal(p, base[name].float()) for name, p in adapted.parameters.items())
    others = {p.dtype for name, p in model.named_parameters() if name not in adapted.parameters and p.ndim >= 2}
    assert others == ({torch.bfloat16} if preset == "bitfit" else set())
    inputs, labels = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        F.cross_entropy(model(**inputs).logits, labels).backward()
    assert {p.grad.dtype for p in adapted.parameters.values() if p.grad is not None} == {torch.float32}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapted.parameters.values())


def quantized_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 3))
    packed = quantize(model[0].weight.data, model[0].bias, "nf4", double=False, dtype=torch.float32, layout=nn.Linear)
    model[0] = packed
    return model


def test_biases_of_quantized_layers_are_trained_and_their_weights_are_not() -> None:
    model = quantized_model()
    adapted = adapt(model, layer="bias")
    assert list(adapted.parameters) == ["0.bias", "1.bias", "2.bias"]
    model(torch.randn(5, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapted.parameters.values())
    with pytest.raises(InputError, match=r"(?s)quantized weights cannot be trained.*first 0"):
        adapt(quantized_model(), layer="full")
    assert list(adapt(quantized_model(), ["2"], layer="full").parameters) == ["2.weight", "2.bias"]
