"""What records of methods say of themselves, for people: nothing here knows a method by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.methods.choice import Choice
from reflora_cli.methods.layers import LAYERS
from reflora_cli.methods.method import AXES, Method
from reflora_cli.methods.presets import PRESETS
from reflora_cli.methods.spelling import DEFAULTS
from reflora_cli.methods.starts import STARTS
from reflora_cli.methods.updates import UPDATES

CHOICES: Mapping[str, Mapping[str, type[Choice]]] = {"layer": LAYERS, "start": STARTS, "update": UPDATES}
"""The records that a method is made of, by axis and kind."""
NEEDS = {
    "needs_full_rank": "the rank is at most min(out, in) on every adapted weight",
    "moves_base": "it changes the frozen weight, and the adapter's files hold the change",
    "sees_data": "it looks at the run's first training rows",
    "chooses_ranks": "each module gets a rank of its own",
    "needs_warmup_at_zero": "where B starts at 0, it acts only after a warm-up of plain steps",
    "transports_moments": "optimizers with 8-bit moments are refused",
    "is_optimizer": "it steps A and B itself, instead of train.optimizer",
    "is_virtual": "train.packing and model.sharded are refused",
    "keeps_cache": "decoders only, and train.gradient_checkpointing is refused",
    "trains_weights": "model.quantization and model.sharded are refused",
}
"""What properties of records mean for a run."""
SAID = {
    "not_for_peft": "PEFT cannot read it",
    "not_for_vllm": "vLLM cannot serve it beside a base",
    "not_merged": "it cannot be merged",
}
"""The properties that hold a reason, and what it is a reason for."""


@dataclass(frozen=True)
class Setting:
    """A field of a choice that a recipe can set."""

    name: str
    default: Any
    description: str


@dataclass(frozen=True)
class Part:
    """One choice of a method. formula: what the record says that it is. needs: what it asks of a run."""

    axis: str
    kind: str
    formula: str
    source: str
    fields: tuple[Setting, ...]
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Described:
    """A preset, or a choice alone.

    composes: the kinds that can stand in the place of its own, by axis. refusals: why another one cannot, as
    `axis kind` -> reason.
    """

    name: str
    source: str
    settings: Mapping[str, Any]
    parts: tuple[Part, ...]
    composes: Mapping[str, tuple[str, ...]]
    refusals: Mapping[str, str]


def described(name: str) -> Described:
    """Return what is known of a preset or, where none has the name, of a choice. Raises InputError for other names."""
    if name in PRESETS:
        method = Method(name=name)
        parts = tuple(part_of(axis, getattr(method, axis)) for axis in CHOICES)
        return composed(name, PRESETS[name].source, further(method), parts, {"name": name})
    for axis, records in CHOICES.items():
        if name in records:
            own = part_of(axis, records[name].model_validate({"kind": name}))
            return composed(name, own.source, {}, (own,), {"name": "lora", axis: name})
    known = {*PRESETS, *(kind for records in CHOICES.values() for kind in records)}
    remedy = nearest(name, known, "reflora list methods")
    raise InputError(
        Problem("there is no such method", name, expected="a preset, or a layer, start or update", remedy=remedy)
    )


def composed(
    name: str, source: str, settings: Mapping[str, Any], parts: tuple[Part, ...], values: Mapping[str, Any]
) -> Described:
    """Return a description with what the method goes together with. values: what a recipe says to choose it."""
    reasons = dict(refused(values))
    kinds = {axis: tuple(kind for kind in records if (axis, kind) not in reasons) for axis, records in CHOICES.items()}
    return Described(name, source, settings, parts, kinds, {" ".join(key): own for key, own in reasons.items()})


def refused(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield the choices that a method does not go together with: axis and kind, and the reason."""
    for axis, records in CHOICES.items():
        for kind in records:
            try:
                Method.model_validate({**values, axis: kind})
            except ValidationError as error:
                first = error.errors()[0]
                yield (axis, kind), str(first.get("ctx", {}).get("reason", first["msg"]))


def further(method: Method) -> dict[str, Any]:
    """Return the numbers and names that a preset sets beside its choices."""
    usual = {axis: Method.model_fields[axis].default for axis in AXES if axis not in DEFAULTS}
    return {axis: own for axis, common in usual.items() if (own := getattr(method, axis)) != common}


def part_of(axis: str, choice: Choice) -> Part:
    """Return what a choice says of itself."""
    fields = tuple(
        Setting(name, getattr(choice, name), field.description or "")
        for name, field in type(choice).model_fields.items()
        if name != "kind"
    )
    needs = [text for name, text in NEEDS.items() if getattr(choice, name, False)]
    needs += [f"{text}: {reason}" for name, text in SAID.items() if (reason := getattr(choice, name, ""))]
    return Part(axis, choice.kind, " ".join((choice.__doc__ or "").split()), choice.source, fields, tuple(needs))


def listed(described: Described) -> str:
    """Return on one line what a method goes together with."""
    lines = []
    for axis, kinds in described.composes.items():
        out = [kind for kind in CHOICES[axis] if kind not in kinds]
        few = ", ".join(kinds) if len(kinds) <= len(out) else f"all but {', '.join(out)}"
        lines.append(f"{axis}: {few if out else 'all'}")
    return "; ".join(lines)


def described_briefly(name: str) -> str:
    """Return on one line what a preset chooses otherwise than plain LoRA."""
    method = Method(name=name)
    axes = [f"{axis} {own}" for axis in CHOICES if str(own := getattr(method, axis)) != str(DEFAULTS[axis])]
    return ", ".join([*axes, *(f"{key} {value}" for key, value in further(method).items())]) or "the standard choices"
