"""Our layers against PEFT's: from the same initial factors, training follows the same path."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from torch import nn

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.dora import DoRALinear
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.methods.axes import Scaling
from reflora_cli.methods.layers import LAYERS
from reflora_cli.methods.method import Method
from tests.models import HEADS, MODELS, descend, injected, make

LORA_LAYERS = [kind for kind, layer in LAYERS.items() if layer.peft_type == "LORA" and not layer.read_as]
INITS: dict[str, bool | str] = {"gaussian": "gaussian", "pissa": "pissa"}
"""PEFT's names of the starts that it has."""


TAKEN_OUT = ("milora", "olora", "lora-ga")
"""Starts that move the base and that PEFT does not have, not for transposed weights, or with other factors: its twin
has our moved base.
"""


def peft_twin(base: nn.Module, name: str, method: Method, adapted: Adapted) -> nn.Module:
    """The same model through PEFT, with our factors copied in."""
    config = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=list(adapted.layers),
        modules_to_save=list(HEADS[name]),
        init_lora_weights=INITS.get(str(method.start), True),
        use_dora=method.layer.kind == "dora",
        use_rslora=method.scaling is Scaling.RSLORA,
        fan_in_fan_out=name == "gpt2",
    )
    model = peft.get_peft_model(base, config)
    own = dict(model.base_model.model.named_modules())
    with torch.no_grad():
        for path, layer in adapted.layers.items():
            if method.start.kind in TAKEN_OUT:
                own[path].base_layer.weight.copy_(layer.frozen.weight)
            own[path].lora_A["default"].weight.copy_(layer.A)
            own[path].lora_B["default"].weight.copy_(layer.B)
            if isinstance(layer, DoRALinear) and method.start.leaves_base:
                own[path].lora_magnitude_vector["default"].weight.copy_(layer.magnitude)
    return model


@pytest.mark.parametrize(
    ("start", "scaling"),
    [
        *(("default", scaling) for scaling in Scaling),
        *((start, Scaling.STANDARD) for start in ("pissa", "milora", "olora", "orthogonal", "lora-ga", "lora-one")),
    ],
)
@pytest.mark.parametrize("layer", LORA_LAYERS)
@pytest.mark.parametrize("name", list(MODELS))
def test_twenty_steps_follow_peft(name: str, layer: str, start: str, scaling: Scaling) -> None:
    """Same factors, no dropout, float32: losses and every trained parameter agree to 1e-5.

    Where the start moves the base, PEFT has moved its own. MiLoRA's weak directions have small gradients, and
    OLoRA's A is large: at this rate Adam blows their rounding up to 2e-5 (at a tenth of the rate it stays at 1e-6).
    """
    close = 2e-5 if start in TAKEN_OUT else 1e-5
    base = make(name)
    method = Method(name="lora", rank=4, alpha=8.0, layer=layer, start=start, scaling=scaling)
    ours = copy.deepcopy(base)
    adapted = injected(ours, method, HEADS[name], HEADS[name], seed=3)
    theirs = peft_twin(base, name, method, adapted)

    our_losses, their_losses = descend(ours), descend(theirs)

    assert our_losses == pytest.approx(their_losses, abs=close)
    assert all(module.B.abs().max() > 1e-2 for module in adapted.layers.values())
    reference = peft.get_peft_model_state_dict(theirs)
    for path, module in adapted.layers.items():
        prefix = f"base_model.model.{path}"
        torch.testing.assert_close(module.A.detach(), reference[f"{prefix}.lora_A.weight"], atol=close, rtol=0)
        torch.testing.assert_close(module.B.detach(), reference[f"{prefix}.lora_B.weight"], atol=close, rtol=0)
        if isinstance(module, DoRALinear):
            magnitude = reference[f"{prefix}.lora_magnitude_vector"]
            torch.testing.assert_close(module.magnitude.detach(), magnitude, atol=close, rtol=0)


@pytest.mark.parametrize("iterations", [None, 4])
@pytest.mark.parametrize("name", list(MODELS))
def test_pissa_begins_where_peft_s_does(name: str, iterations: int | None) -> None:
    """What stays in the base and what is trained, as products: singular vectors have no signs of their own.

    Random subspaces differ, the more the closer singular values lie: ours must take out no less than PEFT's.
    """
    base = make(name)
    method = Method(name="lora", rank=4, alpha=8.0, start={"kind": "pissa", "iterations": iterations})
    ours = copy.deepcopy(base)
    adapted = injected(ours, method, HEADS[name], HEADS[name], seed=3)
    init = "pissa" if iterations is None else f"pissa_niter_{iterations}"
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(adapted.layers), init_lora_weights=init,
                             fan_in_fan_out=name == "gpt2")  # fmt: skip
    torch.manual_seed(0)
    theirs = dict(peft.get_peft_model(base, config).base_model.model.named_modules())
    for path, layer in adapted.layers.items():
        assert isinstance(layer, LowRankLayer)
        other = theirs[path]
        rest = other.base_layer.weight.T if name == "gpt2" else other.base_layer.weight
        update = 2.0 * other.lora_B["default"].weight @ other.lora_A["default"].weight
        if iterations is None:
            close = 1e-5 * float(update.detach().norm())
            assert (layer.frozen.dense() - rest).norm() < close
            assert (2.0 * layer.B @ layer.A - update).norm() < close
        else:
            assert layer.frozen.dense().norm() <= rest.norm() * 1.001


@pytest.mark.parametrize("name", list(MODELS))
def test_olora_begins_where_peft_s_does(name: str) -> None:
    """To the last bits of float32, at s = 2: R's rows and Q's columns have signs, but those of one decomposition."""
    base = make(name)
    method = Method(name="olora", rank=4, alpha=8.0)
    ours = copy.deepcopy(base)
    adapted = injected(ours, method, HEADS[name], HEADS[name], seed=3)
    for path, layer in adapted.layers.items():
        assert isinstance(layer, LowRankLayer)
        linear = nn.Linear(layer.frozen.in_features, layer.frozen.out_features)  # PEFT's reads a Conv1D's as [in, out]
        weight = base.get_submodule(path).weight.detach()
        linear.weight.data = (weight.T if name == "gpt2" else weight).clone()
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["0"], init_lora_weights="olora")
        other = peft.get_peft_model(nn.Sequential(linear), config).base_model.model[0]
        torch.testing.assert_close(layer.A.detach(), other.lora_A["default"].weight.detach(), atol=1e-5, rtol=0)
        torch.testing.assert_close(layer.B.detach(), other.lora_B["default"].weight.detach(), atol=1e-5, rtol=0)
        torch.testing.assert_close(layer.frozen.dense(), other.base_layer.weight.detach(), atol=1e-5, rtol=0)
