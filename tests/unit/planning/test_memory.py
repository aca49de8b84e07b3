"""Loading takes the files beside the weights where these are cast or quantized, and only on a CPU."""

from __future__ import annotations

import pytest

from reflora_cli.model.sources import BUILTIN
from reflora_cli.planning.devices import Device, named_gpu, own_device
from reflora_cli.planning.plan import Plan, Request, planned
from reflora_cli.recipe.files import load_recipe

FEW = ("task.max_train_rows=16", "task.max_eval_rows=4", "train.epochs=300", "train.batch_size=4", "method.name=lora")


def made(setting: str, device: Device) -> Plan:
    return planned(load_recipe("quickstart-commonsense", [*FEW, setting]), Request(device))


@pytest.mark.parametrize("setting", ["model.dtype=bfloat16", "model.quantization=nf4"])
def test_files_count_beside_weights_of_another_form(setting: str) -> None:
    files = sum(file.stat().st_size for file in BUILTIN["tiny-llama"].glob("*.safetensors"))
    memory = made(setting, own_device()).memory
    assert memory.loading == files + sum(memory.weights.values())
    assert memory.total >= memory.fixed + memory.loading


def test_weights_that_are_used_as_they_lie_there_count_once() -> None:
    assert made("model.dtype=float32", own_device()).memory.loading == 0
    assert made("model.dtype=bfloat16", named_gpu("12 GB")).memory.loading == 0
