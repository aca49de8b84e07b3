"""The layers of a search compute the base's output plus the weighted changes, whatever the weights."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch

from reflora_cli.adapters.inject import attach
from reflora_cli.combining.layers import readers_of
from reflora_cli.combining.mixture import layers_of, mixtures
from reflora_cli.combining.source import read_source
from reflora_cli.console.reporter import SILENT
from reflora_cli.ground.errors import InputError
from tests.unit.combining.adapters import base, make, weighted


def test_weights_change_in_place_without_cross_terms(tmp_path: Path) -> None:
    one = make(tmp_path / "one", 1, r=3, lora_alpha=6)
    two = make(tmp_path / "two", 2, peft.VeraConfig, r=5, target_modules=["q_proj", "k_proj"])
    model, tokens = base(), torch.arange(12).view(2, 6)
    mixed = mixtures(readers_of([read_source(str(one)), read_source(str(two))], None, SILENT), model)
    attach(model, layers_of(mixed), [], {})
    for weights in ((0.0, 0.0), (1.0, -0.5), (0.3, 1.5)):
        for own in mixed.values():
            own.weigh(weights)
        reference = base().double()
        for name, change in weighted({one: weights[0], two: weights[1]}).items():
            reference.get_submodule(name).weight.data += change
        with torch.no_grad():
            found, expected = model(tokens).logits, reference(tokens).logits
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


def test_a_change_without_factors_is_refused(tmp_path: Path) -> None:
    adapter = make(tmp_path / "dora", 1, r=2, use_dora=True)
    readers = readers_of([read_source(str(adapter))], None, SILENT)
    with pytest.raises(InputError, match="not a product of two factors"):
        mixtures(readers, base())
