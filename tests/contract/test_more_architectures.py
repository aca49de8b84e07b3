"""One training step on many architectures, tiny: gradients of every adapter equal PEFT's, whatever a model does with
the output of its linear layers: some change it in place.
"""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn

from reflora_cli.adapters.dora import DoRALinear
from reflora_cli.methods.layers import LAYERS
from reflora_cli.methods.method import Method
from tests.architectures import DECODERS, ENCODERS
from tests.models import ADAPTERS, injected
from tests.random_models import classifier, language_model

CLASSIFIERS = ("albert", "deberta", "distilbert", "electra", "longformer", "xlnet")
LANGUAGE_MODELS = (
    "bloom", "cohere", "falcon", "gemma3", "gpt-j", "mixtral", "olmo-clipped", "opt", "phi", "stablelm",
)  # fmt: skip
ENCODER_OF_T5 = "t5"


def made(name: str) -> nn.Module:
    """A model of 60 tokens, in training mode."""
    torch.manual_seed(0)
    if name in LANGUAGE_MODELS:
        return language_model(DECODERS[name], vocab_size=60).train()
    if name == ENCODER_OF_T5:
        return transformers.T5EncoderModel(ENCODERS[name].config(vocab_size=60)).train()
    return classifier(ENCODERS[name], vocab_size=60).train()


def stepped(model: nn.Module) -> torch.Tensor:
    """One forward and backward pass; the loss."""
    output = model(input_ids=torch.arange(16).view(2, 8) + 3)
    loss: torch.Tensor = (output[0].float() * torch.linspace(-1, 1, output[0].numel()).view_as(output[0])).sum()
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize(
    "layer",
    [kind for kind, own in LAYERS.items() if own.peft_type == "LORA" and (own.has_pairs or own.has_frames)],
)
@pytest.mark.parametrize("name", [*CLASSIFIERS, *LANGUAGE_MODELS, ENCODER_OF_T5])
def test_gradients_are_those_of_peft(name: str, layer: str) -> None:
    base = made(name)
    ours = copy.deepcopy(base)
    adapted = injected(ours, Method(name="lora", rank=2, alpha=3.0, layer=layer), [], [], seed=0)
    config = peft.LoraConfig(r=2, lora_alpha=3.0, target_modules=list(adapted.layers), use_dora=layer == "dora")
    theirs = peft.get_peft_model(base, config)
    own = dict(theirs.base_model.model.named_modules())
    torch.manual_seed(1)
    with torch.no_grad():
        for path, module in adapted.layers.items():
            own[path].lora_A["default"].weight.copy_(module.A)
            own[path].lora_B["default"].weight.copy_(module.B.normal_(std=0.1))
    assert float(stepped(ours)) == pytest.approx(float(stepped(theirs)), rel=1e-4, abs=1e-7)
    reached = 0
    for path, module in adapted.layers.items():
        factors = ((module.A, own[path].lora_A["default"].weight), (module.B, own[path].lora_B["default"].weight))
        vectors = (
            ((module.magnitude, own[path].lora_magnitude_vector["default"].weight),)
            if isinstance(module, DoRALinear)
            else ()
        )
        for mine, other in (*factors, *vectors):
            assert (mine.grad is None) == (other.grad is None)
            if mine.grad is not None:
                reached += bool(mine.grad.any())
                torch.testing.assert_close(
                    mine.grad, other.grad, atol=1e-4 * float(other.grad.abs().max()) + 1e-9, rtol=0
                )
    assert reached > len(adapted.layers)


NEAR: dict[str, Any] = {"stella": {"kind": "stella", "s_initial": 0.3}}
"""Begun as it is published, far from its base, it brings more values of a model to where they are clipped."""


@pytest.mark.parametrize("layer", ADAPTERS)
@pytest.mark.parametrize("name", ["longformer", "olmo-clipped", "falcon", "phi"])
def test_half_precision_is_near(name: str, layer: str) -> None:
    model = made(name)
    adapted = injected(model, Method(name="lora", rank=2, layer=NEAR.get(layer, layer)), [], [], seed=0)
    found = []
    for half in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            stepped(model)
        gradients = [p.grad for p in adapted.parameters.values() if p.grad is not None]
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    assert (found[0] - found[1]).norm() < 0.1 * found[0].norm()
