"""Every legal method against the properties that all of them share, from one table."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from reflora_cli.adapter_io.config import NamedBase
from reflora_cli.adapter_io.files import (
    CONFIG,
    PREFIX,
    RECORD,
    WEIGHTS,
    adapter_tensors,
    read_adapter,
    write_adapter,
    write_adapter_config,
)
from reflora_cli.adapter_io.formats import adapter_config, format_of
from reflora_cli.adapter_io.loading import load_adapter
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.axes import Scaling
from reflora_cli.methods.layers import LAYERS
from reflora_cli.methods.method import Method
from reflora_cli.methods.settings import Optimizer
from reflora_cli.methods.starts import STARTS
from reflora_cli.methods.update_record import Refactor
from reflora_cli.methods.updates import UPDATES
from reflora_cli.optim.build import Rates, build_course, build_optimizer
from reflora_cli.optim.partition import Partition
from reflora_cli.training.prepare import roles_in
from tests.models import ADAPTERS, HEADS, acts_on, batch, injected, make, quantized

WARMUP = 2
OTHER_AXES = [
    ("default", Scaling.STANDARD, 1.0, 1),
    ("gaussian", Scaling.RSLORA, 4.0, 3),
    ("pissa", Scaling.STANDARD, 1.0, 1),
    ("eva", Scaling.STANDARD, 1.0, 1),
    ("milora", Scaling.STANDARD, 1.0, 1),
    ("olora", Scaling.STANDARD, 1.0, 1),
    ("orthogonal", Scaling.STANDARD, 1.0, 1),
    ("loftq", Scaling.STANDARD, 1.0, 1),
    ("lq-lora", Scaling.STANDARD, 1.0, 1),
    ("nora", Scaling.STANDARD, 1.0, 1),
    ("corda", Scaling.STANDARD, 1.0, 1),
    ("lora-ga", Scaling.RSLORA, 1.0, 1),
    ("lora-one", Scaling.RSLORA, 1.0, 1),
]
"""start, scaling, lr_ratio, interval: plain numbers in the code, so two values of each are enough."""
FURTHER_UPDATES: list[dict[str, Any]] = [
    {"kind": "balanced", "warmup_steps": WARMUP, "moments": "transport"},
    {"kind": "lora-pro", "moments": "dense"},
    {"kind": "lora-fa", "gradients": "projected"},
    {"kind": "altlora", "moments": "both"},
]
"""Where a field other than the numbers above makes another rule."""
FURTHER_FRAMES: list[dict[str, Any]] = [
    {"layer": {"kind": "stella", "diagonal": True, "s_initial": 0.0}},
    {"update": {"kind": "stiefel", "retraction": "exp_map", "width": "none"}},
]
"""Where the fields of a layer or a rule of frames make another one."""


def is_covered(layer: str, update: str, start: str, scaling: Scaling) -> bool:
    """Whether a combination is in the table: all of update and start on LoRA's layer, and on every other layer each
    update and each start by itself.
    """
    if STARTS[start].is_deficient and UPDATES[update].needs_full_rank and not has_warmup(update):
        return False
    if not acts_on(update, layer) or (scaling is not Scaling.STANDARD and "scaling" in LAYERS[layer].meaningless):
        return False
    if not LAYERS[layer].has_pairs:
        return start == "default"
    return layer == "lora" or update == "plain" or start == "default"


def has_warmup(update: str) -> bool:
    return "warmup_steps" in UPDATES[update].model_fields


METHODS = (
    [
        Method(
            name="lora",
            rank=3 * STARTS[start].rank_multiple,
            alpha=6.0,
            layer=layer,
            start=start,
            update=update,
            scaling=scaling,
            lr_ratio=1.0 if UPDATES[update].holds_a else ratio,
            refactor=Refactor(warmup_steps=WARMUP, interval=interval),
        )
        for layer, update, (start, scaling, ratio, interval) in itertools.product(ADAPTERS, UPDATES, OTHER_AXES)
        if is_covered(layer, update, start, scaling)
    ]
    + [Method(name="lora", layer=layer) for layer in LAYERS if layer not in ADAPTERS]
    + [Method(name="lora", rank=3, alpha=6.0, update=update) for update in FURTHER_UPDATES]
    + [Method(name="stella", rank=3, alpha=6.0, scaling="rslora", **choices) for choices in FURTHER_FRAMES]
)
"""What is left out is refused: `tests/unit/methods/test_choices.py`."""
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
MERGED = [method for method in METHODS if not method.layer.is_virtual]
"""Virtual tokens are in no module that a plain one could replace."""
ADAMW, SGD = Rates(3e-3, None, 0.01), Rates(0.05, None, 0.01, Optimizer.SGD, 0.9)
SLOWER = {
    **dict.fromkeys(["scaled-gd", "preclora"], Rates(0.005, None, 0.01, Optimizer.SGD, 0.9)),
    "stella": Rates(0.01, None, 0.01, Optimizer.SGD, 0.9),
}
"""By update or layer. Steps of the first two are long right after B = 0: at 0.05 the loss rises after a warm-up of two
steps, and falls after ten. With stella all three factors are large from the first step on, and at 0.05 they leave."""
NEARLY = {"lora-xs": 1e-2}
"""Layers that are only near their base at the start: X begins normal with a deviation of 1e-5, as published."""
DESCENT = Rates(0.03, 3e-3, 0.01)
"""For optimizers of pairs whose steps are those of gradient descent on the weight, with AdamW for the head."""
FASTER = {"prompt": Rates(0.03, 3e-3, 0.01)}
"""A few vectors before a row need rates far above those of layers (Lester et al. 2021 take 0.3)."""


def adaptive_rates(method: Method) -> Rates:
    """The rates under AdamW, or under an optimizer of pairs in its place."""
    if method.update.is_optimizer and not method.update.steps_like_adamw:
        return DESCENT
    return FASTER.get(method.layer.kind, ADAMW)


trained_by = pytest.mark.parametrize(
    ("method", "rates"),
    [*((method, adaptive_rates(method)) for method in METHODS),
     *((method, SLOWER.get(method.update.kind, SLOWER.get(method.layer.kind, SGD))) for method in METHODS
       if (method.layer.kind, method.start.kind) in (("lora", "default"), ("stella", "default"))
       and not method.update.is_optimizer)],
    ids=lambda one: one.optimizer if isinstance(one, Rates) else one.label,
)  # fmt: skip
"""What an optimizer has a part in."""


class Training:
    """A small model under one method, with its optimizer."""

    def __init__(self, method: Method, rates: Rates = ADAMW) -> None:
        architecture = "llama" if method.layer.keeps_cache else "bert"
        self.head = HEADS[architecture]
        base = make(architecture)
        self.base = quantized(base) if method.start.corrects_quantization else base
        self.model = copy.deepcopy(self.base)
        self.adapted: Adapted = injected(self.model, method, self.head, self.head, seed=1)
        self.optimizer = optimizer_for(method, self.adapted, rates)

    def step(self) -> float:
        loss = loss_of(self.model)
        loss.backward()
        if (penalty := self.optimizer.rule.penalty()) is not None:
            penalty.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def optimizer_for(method: Method, adapted: Adapted, rates: Rates) -> Partition:
    return build_optimizer(method, roles_in(adapted), rates, build_course(method, adapted.triplets, 60))


def loss_of(model: nn.Module) -> torch.Tensor:
    inputs, labels = batch(seed=0, rows=8)
    return F.cross_entropy(model(**inputs).logits, labels)


def logits_of(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch(seed=7)[0]).logits


@every_method
def test_adapted_model_starts_as_its_base_unless_its_layer_says_otherwise(method: Method) -> None:
    training = Training(method)
    own, base = logits_of(training.model), logits_of(training.base)
    if method.start.leaves_base:
        assert (own - base).abs().max() > 1e-3
        return
    close = NEARLY.get(method.layer.kind, 1e-5)
    close = 0.05 if method.start.corrects_quantization else close  # a rounding of int8, which it moves away from
    if method.layer.begins_as_base:
        torch.testing.assert_close(own, base, atol=close, rtol=1e-5)
    else:
        assert (own - base).abs().max() > 1e-2


NAMES = {
    "lora": {"A", "B"},
    "dora": {"A", "B", "magnitude"},
    "vera": {"d", "b"},
    "houlsby": {"down", "down_bias", "up", "up_bias"},
    "pfeiffer": {"down", "down_bias", "up", "up_bias"},
    "prompt": {"embedding"},
    "prefix": {"embedding"},
    "stella": {"A", "B", "S"},
    "adalora": {"A", "E", "B"},
    "ia3": {"l"},
    "lora-xs": {"X"},
}
"""The names of a layer's trained parameters."""


@every_method
def test_trained_names_are_exactly_the_expected_ones(method: Method) -> None:
    training = Training(method)
    kinds = NAMES.get(method.layer.kind, set()) - ({"A"} if method.update.holds_a else set())
    expected = {f"{name}.{kind}" for name in training.adapted.layers for kind in kinds}
    ending = {"bias": "bias", "full": ""}.get(method.layer.kind, "(none)")
    expected |= {name for name, _ in training.base.named_parameters() if name.endswith(ending)}
    expected |= {name for name, _ in training.base.named_parameters() if name.partition(".")[0] in training.head}
    with_gradient = {name for name, p in training.model.named_parameters() if p.requires_grad}
    assert with_gradient == expected == set(training.adapted.parameters)
    grouped = [p for group in training.optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, training.adapted.parameters.values()))


@trained_by
def test_every_trained_tensor_moves_within_warmup_and_two_steps_and_the_loss_falls(
    method: Method, rates: Rates
) -> None:
    training = Training(method, rates=rates)
    before = {name: p.detach().clone() for name, p in training.adapted.parameters.items()}
    losses = [training.step() for _ in range(WARMUP + 2)]
    still = [name for name, p in training.adapted.parameters.items() if torch.equal(p, before[name])]
    assert not still
    losses += [training.step() for _ in range(WARMUP + 2, 60)]
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("method", MERGED, ids=lambda method: method.label)
def test_merged_model_computes_what_the_adapted_one_does(method: Method) -> None:
    training = Training(method)
    for _ in range(6):
        training.step()
    adapted = logits_of(training.model)
    for name, layer in training.adapted.layers.items():
        training.model.set_submodule(name, layer.plain(torch.float32))
    assert not any("frozen" in name for name, _ in training.model.named_parameters())
    torch.testing.assert_close(logits_of(training.model), adapted, atol=2e-5, rtol=1e-5)


@every_method
def test_saved_adapter_loads_bit_exactly_and_strictly(method: Method, tmp_path: Path) -> None:
    training = Training(method)
    for _ in range(4):
        training.step()
    tensors = adapter_tensors(training.model, training.adapted, training.head)
    config = adapter_config(training.model, training.adapted, method, training.head, NamedBase("base", None), "SEQ_CLS")
    write_adapter_config(tmp_path, config, format_of(training.adapted).record(training.adapted))
    write_adapter(tmp_path, tensors)

    fresh = copy.deepcopy(training.base)
    load_adapter(fresh, read_adapter(tmp_path), training.head)
    assert torch.equal(logits_of(fresh), logits_of(training.model))

    for change in ("missing", "unexpected"):
        changed = load_file(tmp_path / WEIGHTS)
        key = next(key for key in changed if not any(f".{head}." in key for head in training.head))
        own = changed.pop(key)
        if change == "unexpected":
            changed |= {key: own, f"{PREFIX}bert.nowhere.{'.'.join(key.split('.')[-2:])}": own.clone()}
        other = tmp_path / change
        other.mkdir()
        save_file(changed, other / WEIGHTS)
        for name in (CONFIG, RECORD):
            (other / name).write_bytes((tmp_path / name).read_bytes())
        with pytest.raises(InputError):
            load_adapter(copy.deepcopy(training.base), read_adapter(other), training.head)


@trained_by
@pytest.mark.parametrize("stop", [1, WARMUP, WARMUP + 2])
def test_interrupted_training_equals_uninterrupted(method: Method, rates: Rates, stop: int) -> None:
    """Everything that advances is in the optimizer's tensors: moments, counters, cached matrices."""
    whole, part = Training(method, rates=rates), Training(method, rates=rates)
    for _ in range(8):
        whole.step()
    for _ in range(stop):
        part.step()
    saved = {name: tensor.clone() for name, tensor in part.optimizer.tensors(part.adapted.parameters).items()}
    optimizer = optimizer_for(method, part.adapted, rates)
    optimizer.load_tensors(part.adapted.parameters, saved)
    part.optimizer = optimizer
    for _ in range(stop, 8):
        part.step()
    for name, parameter in whole.adapted.parameters.items():
        assert torch.equal(parameter, part.adapted.parameters[name]), name
