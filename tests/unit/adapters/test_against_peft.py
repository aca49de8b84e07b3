"""Our layers against PEFT's: from the same initial factors, training follows the same path."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reflora_cli.adapters.dora import DoRALinear
from reflora_cli.adapters.inject import Adapted
from reflora_cli.methods.axes import Scaling
from reflora_cli.methods.method import Method
from tests.models import ADAPTERS, HEADS, MODELS, batch, injected, make

STEPS = 20


def peft_twin(base: nn.Module, name: str, method: Method, adapted: Adapted) -> nn.Module:
    """The same model through PEFT, with our factors copied in."""
    config = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=list(adapted.layers),
        modules_to_save=list(HEADS[name]),
        use_dora=method.layer.kind == "dora",
        use_rslora=method.scaling is Scaling.RSLORA,
        fan_in_fan_out=name == "gpt2",
    )
    model = peft.get_peft_model(base, config)
    own = dict(model.base_model.model.named_modules())
    with torch.no_grad():
        for path, layer in adapted.layers.items():
            own[path].lora_A["default"].weight.copy_(layer.A)
            own[path].lora_B["default"].weight.copy_(layer.B)
    return model


def descend(model: nn.Module, steps: int = STEPS) -> list[float]:
    """Losses of some AdamW steps, each on its own batch."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    losses = []
    model.train()
    for step in range(steps):
        inputs, labels = batch(seed=step)
        loss = F.cross_entropy(model(**inputs).logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("scaling", list(Scaling))
@pytest.mark.parametrize("layer", ADAPTERS)
@pytest.mark.parametrize("name", list(MODELS))
def test_twenty_steps_follow_peft(name: str, layer: str, scaling: Scaling) -> None:
    """Same factors, no dropout, float32: losses and every trained parameter agree to 1e-5."""
    base = make(name)
    method = Method(name="lora", rank=4, alpha=8.0, layer=layer, scaling=scaling)
    ours = copy.deepcopy(base)
    adapted = injected(ours, method, HEADS[name], HEADS[name], seed=3)
    theirs = peft_twin(base, name, method, adapted)

    our_losses, their_losses = descend(ours), descend(theirs)

    assert our_losses == pytest.approx(their_losses, abs=1e-5)
    assert all(module.B.abs().max() > 1e-2 for module in adapted.layers.values())
    reference = peft.get_peft_model_state_dict(theirs)
    for path, module in adapted.layers.items():
        prefix = f"base_model.model.{path}"
        torch.testing.assert_close(module.A.detach(), reference[f"{prefix}.lora_A.weight"], atol=1e-5, rtol=0)
        torch.testing.assert_close(module.B.detach(), reference[f"{prefix}.lora_B.weight"], atol=1e-5, rtol=0)
        if isinstance(module, DoRALinear):
            magnitude = reference[f"{prefix}.lora_magnitude_vector"]
            torch.testing.assert_close(module.magnitude.detach(), magnitude, atol=1e-5, rtol=0)
