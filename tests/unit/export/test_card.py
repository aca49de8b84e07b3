"""The card says what the update rule did, for every rule."""

from __future__ import annotations

import pytest

from reflora_cli.export.card import rule_lines
from reflora_cli.methods.method import Method
from reflora_cli.methods.updates import UPDATES, Refactor
from reflora_cli.recipe.sections import Recipe


@pytest.mark.parametrize("update", UPDATES)
def test_every_rule_but_the_plain_one_is_told(update: str) -> None:
    method = Method(name="lora", update=update, refactor=Refactor(warmup_steps=1))
    sections = {"model": {"name": "m"}, "task": {"name": "t"}, "train": {"epochs": 1}}
    lines = rule_lines(Recipe.model_validate({**sections, "method": method.model_dump()}))
    assert len(lines) == (0 if update == "plain" else 1)
