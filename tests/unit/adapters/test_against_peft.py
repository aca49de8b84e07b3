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
            own[path].lora_A["default"].weight.copy_(layer.A)
            own[path].lora_B["default"].weight.copy_(layer.B)
    return model


@pytest.mark.parametrize(
    ("start", "scaling"), [*(("default", scaling) for scaling in Scaling), ("pissa", Scaling.STANDARD)]
)
@pytest.mark.parametrize("layer", LORA_LAYERS)
@pytest.mark.parametrize("name", list(MODELS))
def test_twenty_steps_follow_peft(name: str, layer: str, start: str, scaling: Scaling) -> None:
    """Same factors, no dropout, float32: losses and every trained parameter agree to 1e-5.

    Where the start moves the base, PEFT has moved its own.
    """
    base = make(name)
    method = Method(name="lora", rank=4, alpha=8.0, layer=layer, start=start, scaling=scaling)
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
