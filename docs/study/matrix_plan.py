"""Say what the study compares: methods, settings, seeds and learning rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matrix_problems import Family
from matrix_runs import Setting
from reflora_cli.methods.method import Method
from reflora_cli.methods.settings import Optimizer
from reflora_cli.methods.updates import UPDATES

ADAMW, SGD = Optimizer.ADAMW, Optimizer.SGD
WARMUP = 10
"""Plain steps before a rule acts, where nothing else is said: a recipe's 100 would be the whole run."""
LORA = "lora"


@dataclass(frozen=True)
class Variant:
    """A method as the study runs it. preset: its name in the package. update: fields of its update rule; None: those of
    the preset. start: where factors begin; None: where the preset says."""

    preset: str
    update: Mapping[str, Any] | None = None
    start: str | None = None

    def method(self, setting: Setting) -> Method:
        """Return the method at the rank and with the s of a setting; under rslora s is sqrt(r) times as large.

        A warm-up of 0 at B = 0, which a recipe refuses, is set behind the check: the rule then leaves the first step,
        in which B is zero, to the optimizer.
        """
        numbers: dict[str, Any] = {"rank": setting.rank, "alpha": setting.scale * setting.rank}
        if self.start:
            numbers["start"] = self.start
        if self.update is None:
            return Method(name=self.preset, **numbers)
        kind = Method(name=self.preset).update.kind
        plain = Method(name=LORA, **numbers)
        return plain.model_copy(update={"name": self.preset, "update": UPDATES[kind](**self.update)})


def timed(preset: str, start: str | None = None, **update: Any) -> Variant:
    """Return a method with the study's warm-up, or another one."""
    return Variant(preset, {"warmup_steps": WARMUP, **update}, start)


VARIANTS: dict[str, Variant] = {
    LORA: Variant("lora"),
    "lora+": Variant("lora+"),
    "rslora": Variant("rslora"),
    "scaled-gd": timed("scaled-gd"),
    "preclora": timed("preclora"),
    "lora-pro": Variant("lora-pro"),
    "altlora": Variant("altlora"),
    "altlora+": Variant("altlora+"),
    "lora-rite": Variant("lora-rite"),
    "reflora": timed("reflora"),
    "reflora-s": timed("reflora-s"),
    "balanced": timed("balanced"),
    "pissa": Variant("pissa"),
    "nora+": Variant("nora+"),
    "reflora from pissa": timed("reflora", "pissa", warmup_steps=0),
    "balanced, moments moved": timed("balanced", moments="transport"),
    "scaled-gd, damping 1e-2": timed("scaled-gd", damping=1e-2),
    "reflora, damping 0": timed("reflora", damping=0.0),
    "reflora, damping 1e-4": timed("reflora", damping=1e-4),
    "reflora, damping 1e-2": timed("reflora", damping=1e-2),
    "reflora, warm-up 0": timed("reflora", warmup_steps=0),
    "reflora, warm-up 50": timed("reflora", warmup_steps=50),
    "reflora, warm-up 100": timed("reflora", warmup_steps=100),
    "reflora, interval 5": timed("reflora", interval=5),
    "reflora, interval 20": timed("reflora", interval=20),
}
OF_BOTH = (
    *(LORA, "lora+", "rslora", "scaled-gd", "preclora", "lora-pro"),
    *("reflora", "reflora-s", "balanced"),
)
OF_ONE = {ADAMW: ("lora-rite", "altlora+"), SGD: ("altlora",)}
"""Optimizers of pairs, whose steps are of the size of AdamW's or of gradient descent's."""
OF_A_BASE = ("pissa", "reflora from pissa", "nora+")
"""Starts that need a frozen weight which is not zero."""
OF_REPEAT = (LORA, "reflora", "reflora-s", "balanced, moments moved", "scaled-gd, damping 1e-2", "lora+")
OF_ABLATION = (*(name for name in VARIANTS if name.startswith("reflora, ")), "balanced", "balanced, moments moved")
OF_GAUGE = (LORA, "reflora", "reflora-s", "balanced", "balanced, moments moved", "lora-rite")


@dataclass(frozen=True)
class Budget:
    """What every method of every setting may use.

    rates: learning rates, the same for all methods under one optimizer. tuning: seeds on which the rate is chosen.
    fresh: seeds on which it is reported.
    """

    rates: Mapping[Optimizer, Sequence[float]]
    tuning: Sequence[int]
    fresh: Sequence[int]
    steps: int


FULL = Budget(
    {ADAMW: [2.0**n for n in range(-13, 2)], SGD: [2.0**n for n in range(-12, 3)]},
    range(3),
    range(100, 110),
    100,
)
QUICK = Budget({ADAMW: [0.01, 0.04, 0.16], SGD: [0.06, 0.25, 4.0]}, range(2), range(100, 103), 24)

FACTORIZATION, REGRESSION = Family("factorization", 8, 10), Family("regression", 8, 30)
TWO_LAYERS = Family("two layers", 8, 1)


def settings_of(optimizer: Optimizer, *families: Family) -> list[Setting]:
    """Return the settings of rank 8 and s = 1."""
    return [Setting(family, optimizer, 8) for family in families]


def main_settings(optimizer: Optimizer) -> list[Setting]:
    """Return the settings on which all methods are compared."""
    return [
        *settings_of(optimizer, FACTORIZATION, replace(FACTORIZATION, condition=100)),
        Setting(Family("sensing", 2, 10, size=20), optimizer, 2),
        *settings_of(optimizer, REGRESSION),
        replace(settings_of(optimizer, replace(REGRESSION, name="noisy regression"))[0], schedule="linear"),
        *settings_of(optimizer, TWO_LAYERS),
    ]


def shaped(optimizer: Optimizer, family: Family, numbers: Sequence[tuple[int, float]]) -> list[Setting]:
    """Return a family's settings of other ranks and s."""
    return [Setting(replace(family, rank=rank), optimizer, rank, scale) for rank, scale in numbers]


def repeat_settings() -> dict[str, list[Setting]]:
    """Return the 33 settings of the earlier small study, by regime."""
    three = (FACTORIZATION, REGRESSION, TWO_LAYERS)
    two_ranks = [(rank, scale) for rank in (2, 8) for scale in (1.0, 8.0)]
    by_hand = [replace(own, gauge_start=10.0) for own in settings_of(ADAMW, *three)]
    jumping = [replace(own, gauge_middle=10.0) for own in settings_of(ADAMW, *three)]
    descent = [
        *shaped(SGD, FACTORIZATION, [(2, 1.0), (8, 1.0), (32, 1.0), (8, 8.0)]),
        *(own for family in three[1:] for own in shaped(SGD, family, [(2, 1.0), (8, 1.0), (8, 8.0)])),
        *(replace(own, gauge_start=10.0) for own in settings_of(SGD, *three)),
    ]
    standard = [
        *shaped(ADAMW, FACTORIZATION, [*two_ranks, (32, 1.0), (32, 8.0)]),
        *(own for family in three[1:] for own in shaped(ADAMW, family, two_ranks)),
    ]
    return {
        "Adam, standard start": standard,
        "Adam, A0 x 10": by_hand,
        "Adam, A x 10 and B / 10 in mid-run": jumping,
        "SGD, all starts": descent,
    }


def ablation_settings() -> list[Setting]:
    """Return the settings on which RefLoRA's own numbers are varied."""
    return [
        *settings_of(ADAMW, FACTORIZATION, REGRESSION, TWO_LAYERS),
        *settings_of(SGD, FACTORIZATION, REGRESSION),
    ]


def gauge_settings() -> list[Setting]:
    """Return settings without and with a gauge that is moved by hand, at the start and in mid-run."""
    base = [*settings_of(ADAMW, FACTORIZATION, REGRESSION), *settings_of(SGD, FACTORIZATION, REGRESSION)]
    return [
        changed for own in base for changed in (own, replace(own, gauge_start=10.0), replace(own, gauge_middle=10.0))
    ]


def methods_of(setting: Setting) -> tuple[str, ...]:
    """Return the methods that are compared on one of the main settings."""
    has_base = setting.family.name in ("regression", "noisy regression", "two layers")
    return (*OF_BOTH, *OF_ONE[setting.optimizer], *(OF_A_BASE if has_base else ()))


def planned() -> Iterator[tuple[Setting, str]]:
    """Yield every setting with every method that it is run with, some of them twice."""
    for optimizer in (ADAMW, SGD):
        for setting in main_settings(optimizer):
            yield from ((setting, name) for name in methods_of(setting))
    for settings in repeat_settings().values():
        for setting in settings:
            yield from ((setting, name) for name in OF_REPEAT)
    for setting in ablation_settings():
        yield from ((setting, name) for name in OF_ABLATION)
    for setting in gauge_settings():
        yield from ((setting, name) for name in of_gauge(setting))


def of_gauge(setting: Setting) -> tuple[str, ...]:
    """Return the methods that are compared under gauges moved by hand."""
    return tuple(name for name in OF_GAUGE if setting.optimizer is ADAMW or name != "lora-rite")


def planned_quickly() -> Iterator[tuple[Setting, str]]:
    """Yield a few of them, in a few seconds."""
    for optimizer in (ADAMW, SGD):
        for setting in settings_of(optimizer, FACTORIZATION):
            yield from ((setting, name) for name in (LORA, "reflora", *OF_ONE[optimizer]))
