"""Choices made of the arguments of a function: what is wrong is an InputError that names the argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.methods.spelling import with_settings
from reflora_cli.methods.update_record import Refactor
from reflora_cli.methods.updates import UPDATES, UpdateChoice


def chosen_update(kind: str, settings: Mapping[str, Any]) -> UpdateChoice:
    """Return the update rule of that kind. settings: those of `Refactor`, of which the rule takes what it has.

    Raises InputError for an unknown kind and for values out of range, also of settings that the rule does not have.
    """
    if kind not in UPDATES:
        raise InputError(Problem("there is no such update rule", "update", repr(kind), remedy=nearest(kind, UPDATES)))
    try:
        Refactor.model_validate(settings)
        return UPDATES[kind].model_validate(with_settings({"kind": kind}, settings))
    except ValidationError as error:
        raise InputError(*wrong_arguments(error, settings)) from error


def wrong_arguments(error: ValidationError, values: Mapping[str, Any]) -> list[Problem]:
    """Return one problem for each argument that is wrong; the branches of a union are joined into one."""
    expected: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        words = detail["msg"].removeprefix("Input should be ")
        expected.setdefault(str(detail["loc"][0]), []).append(words)
    return [
        Problem("an argument is out of range", name, repr(values.get(name)), " or ".join(words))
        for name, words in expected.items()
    ]
