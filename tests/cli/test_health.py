"""What a run says of its own numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from reflora_cli.ground.errors import DivergedError
from reflora_cli.model.sources import find_source
from reflora_cli.training.anomaly import detecting_anomalies
from tests.cli.conftest import FEW, Reflora, records


def at_step_3() -> str:
    return "step 3 of 5"


def test_every_logged_step_tells_of_every_adapter(trained: Path) -> None:
    steps, health = records(trained, "step"), records(trained, "health")
    assert [line["step"] for line in health] == [line["step"] for line in steps]
    first, last = health[0]["modules"], health[-1]["modules"]
    assert len(first) == len(last) == 35
    assert all(0 < own["effective_rank"] <= 4 for own in last.values())
    assert sum(own["norm_B"] for own in last.values()) > sum(own["norm_B"] for own in first.values())


def test_adapters_that_no_gradient_reaches_stop_the_run(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """A layer whose output projection is zero: nothing that it attends to reaches the loss."""
    base = shutil.copytree(find_source("builtin:tiny-llama", None).location, tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["model.layers.1.self_attn.o_proj.weight"].zero_()
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    settings = (f"model.name={base}", "method.targets=[v_proj]")
    outcome = reflora("train", recipe, *settings, "--output", tmp_path / "run")
    assert outcome.status == 2, outcome.err
    assert "1 of 5 adapters" in outcome.err
    assert "layers.1.self_attn.v_proj" in outcome.err
    assert "method.targets" in outcome.err


def test_detection_changes_nothing_in_a_good_run(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    for name, options in (("plain", ()), ("looking", ("--detect-anomaly",))):
        outcome = reflora("train", recipe, *FEW, *options, "--output", tmp_path / name)
        assert outcome.status == 0, outcome.err
    plain, looking = (tmp_path / name / "adapter/adapter_model.safetensors" for name in ("plain", "looking"))
    assert plain.read_bytes() == looking.read_bytes()


def test_the_first_bad_module_is_named() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight.data[0, 0] = torch.inf
    with pytest.raises(DivergedError) as caught, detecting_anomalies(model, at_step_3):
        model(torch.ones(2, 3))
    assert "Linear 1, whose input was finite" in str(caught.value)
    assert "step 3 of 5" in str(caught.value)
    model(torch.ones(2, 3))


def test_the_module_behind_a_bad_gradient_is_named() -> None:
    """Infinite, not NaN: what comes after the last module has a slope beyond float32."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(DivergedError) as caught, detecting_anomalies(model, at_step_3):
        (model(torch.zeros(1, 2)) * 1e30 * 1e30 * 1e-30).sum().backward(torch.tensor(1e20))
    assert "of the output of Linear 1" in str(caught.value)
    assert "step 3 of 5" in str(caught.value)


def test_the_operation_of_a_bad_gradient_is_named() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(DivergedError, match="MulBackward0"), detecting_anomalies(model, at_step_3):
        (model(torch.ones(1, 1)) * 0).sqrt().sum().backward()
