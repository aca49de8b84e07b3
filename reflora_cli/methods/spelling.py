"""The short ways to write a method, spelled out: `update: reflora` is `update: {kind: reflora}`, `init` is `start`, and
the section `refactor` gives the values of whichever update rule is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from reflora_cli.methods.choice import Choice, refusal
from reflora_cli.methods.layer_record import LayerRecord
from reflora_cli.methods.layers import LoRALayer
from reflora_cli.methods.starts import DefaultStart, StartRecord
from reflora_cli.methods.update_record import Refactor, UpdateRecord
from reflora_cli.methods.updates import UPDATES, PlainUpdate

DEFAULTS: dict[str, LayerRecord | StartRecord | UpdateRecord] = {
    "layer": LoRALayer(),
    "start": DefaultStart(),
    "update": PlainUpdate(),
}
"""The choices of a method that names none."""
OLDER_KEYS = {"init": "start"}
"""Other names of keys, and the names under which a method keeps them."""


def spelled_out(values: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's values over those of its preset, every choice as a mapping with its kind.

    What is none of the ways to write a choice stays as it is. Raises a refusal for values that contradict each other.
    """
    own = renamed(values)
    result = {**preset, **own}
    for key, default in DEFAULTS.items():
        if key in result:
            fallback = with_kind(preset.get(key, default), {"kind": default.kind})
            chosen = with_kind(own.get(key, {}), {"kind": fallback["kind"]})
            if key == "update":  # `refactor` goes before a preset, and must not contradict what is given
                chosen = with_settings(chosen, own.get("refactor"))
            result[key] = with_kind(chosen, fallback)
    return result


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values under their present keys. Raises a refusal for a key that is there under both names."""
    for older, key in OLDER_KEYS.items():
        if older in values and key in values:
            raise refusal(older, f"{older} is another name of {key}, and both are given", f"remove {older}", also=key)
    return {OLDER_KEYS.get(key, key): value for key, value in values.items()}


def with_kind(given: Any, fallback: Mapping[str, Any]) -> Any:
    """Return a choice as a mapping, with the fields of the fallback below it if that is of the same kind."""
    if isinstance(given, Choice):
        return given.model_dump()
    given = {"kind": str(given)} if isinstance(given, str) else given
    if not isinstance(given, Mapping):
        return given
    is_same = given.get("kind", fallback["kind"]) == fallback["kind"]
    return {**fallback, **given} if is_same else dict(given)


def with_settings(update: Any, refactor: Any) -> Any:
    """Return an update rule with those values of `refactor` for which it has fields.

    A wrong `refactor` gives none: validation finds it where it stands. Raises a refusal for a value that is given twice
    and differently.
    """
    kind = update.get("kind") if isinstance(update, Mapping) else None
    if not isinstance(kind, str) or kind not in UPDATES:
        return update
    settings = {key: value for key, value in settings_in(refactor).items() if key in UPDATES[kind].model_fields}
    for key, value in settings.items():
        if key in update and update[key] != value:
            reason = f"{key} is given twice: {update[key]} for the update rule, and {value} in refactor"
            raise refusal(f"update.{key}", reason, "remove one of them", also=f"refactor.{key}")
    return {**update, **settings}


def settings_in(refactor: Any) -> dict[str, Any]:
    """Return what the section `refactor` says, without its defaults; nothing if it is wrong."""
    try:
        checked: BaseModel = Refactor.model_validate(refactor)
    except ValidationError:
        return {}
    return checked.model_dump(exclude_unset=True)
