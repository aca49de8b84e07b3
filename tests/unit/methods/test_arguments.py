"""A rule made of a function's arguments: what is wrong is named as the argument."""

from __future__ import annotations

from typing import Any

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.methods.arguments import chosen_update
from reflora_cli.methods.updates import UPDATES, PlainUpdate, RefLoRASUpdate, RefLoRAUpdate

SETTINGS = {"warmup_steps": 3, "interval": 2, "damping": 0.5}


def test_a_rule_takes_the_settings_that_it_has() -> None:
    assert chosen_update("reflora", SETTINGS) == RefLoRAUpdate(warmup_steps=3, interval=2, damping=0.5)
    assert chosen_update("reflora-s", SETTINGS) == RefLoRASUpdate(warmup_steps=3, interval=2)
    assert chosen_update("plain", SETTINGS) == PlainUpdate()


@pytest.mark.parametrize("kind", UPDATES)
@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"warmup_steps": -1}, ("warmup_steps", "-1", "greater than or equal to 0")),
        ({"interval": 0}, ("interval", "0", "greater than or equal to 1")),
        ({"damping": 1.0}, ("damping", "1.0", "less than 1 or 'auto'")),
    ],
)
def test_wrong_settings_are_refused_even_if_the_rule_has_none(
    kind: str, settings: dict[str, Any], problem: tuple[str, str, str]
) -> None:
    with pytest.raises(InputError) as caught:
        chosen_update(kind, {**SETTINGS, **settings})
    (own,) = caught.value.problems
    assert (own.where, own.found, own.expected) == problem


def test_an_unknown_rule_is_told_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'reflora-s'"):
        chosen_update("refloras", SETTINGS)
