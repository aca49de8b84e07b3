"""Every legal method and the rates at which it is trained: the table of the properties that all methods share."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from reflora_cli.methods.axes import Scaling
from reflora_cli.methods.layers import LAYERS
from reflora_cli.methods.method import Method
from reflora_cli.methods.presets import PRESETS
from reflora_cli.methods.settings import Optimizer
from reflora_cli.methods.starts import STARTS
from reflora_cli.methods.update_record import Refactor
from reflora_cli.methods.updates import UPDATES
from reflora_cli.optim.build import Rates
from tests.models import ADAPTERS, acts_on

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


@dataclass(frozen=True)
class Case:
    """A method, the rates at which it is trained, and what its base is made of: a dtype, or a kind of few bits."""

    method: Method
    rates: Rates
    base: str = "float32"

    def __str__(self) -> str:
        base = "" if self.base == "float32" else f"-{self.base}"
        return f"{self.method.label}{base}-{self.rates.optimizer}"


def preset(name: str) -> Method:
    """The method of that name, small, with a warm-up of two steps if it has any."""
    known = Method(name=name)
    size = {"rank": 3 * known.start.rank_multiple, "alpha": 6.0}
    size = {key: value for key, value in size.items() if key not in (*known.layer.meaningless, *known.layer.unused)}
    timing = {"refactor": Refactor(warmup_steps=WARMUP)} if known.update.plain_steps else {}
    return Method(name=name, **size, **timing)


DESCENDED = [
    method
    for method in METHODS
    if (method.layer.kind, method.start.kind) in (("lora", "default"), ("stella", "default"))
    and not method.update.is_optimizer
]
"""Those trained by gradient descent too."""
FLOATS = [method for method in METHODS if not method.start.corrects_quantization]
CORRECTING = [method for method in METHODS if method.start.corrects_quantization]
NAMED = [preset(name) for name in PRESETS]
BASES = {
    "bfloat16": [method for method in NAMED if not method.start.corrects_quantization],
    "nf4": [method for method in NAMED if not method.layer.trains_weights],
}
"""The presets on other bases than one of float32. What is left out is refused."""
ADAPTIVE = [
    Case(method, adaptive_rates(method), base)
    for base, methods in {"float32": FLOATS, "int8": CORRECTING, **BASES}.items()
    for method in methods
]
CASES = [
    *ADAPTIVE,
    *(Case(method, SLOWER.get(method.update.kind, SLOWER.get(method.layer.kind, SGD))) for method in DESCENDED),
]
"""All of them; the first are those of `ADAPTIVE`."""
