"""Loading takes the files beside the weights where these are cast or quantized, and only on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reflora_cli.planning.devices import Device, named_gpu, own_device
from reflora_cli.planning.plan import Plan, Request, planned
from reflora_cli.recipe.files import load_recipe

FEW = ("task.max_train_rows=16", "task.max_eval_rows=4", "train.epochs=300", "train.batch_size=4", "method.name=lora")


def made(base: str, setting: str, device: Device) -> Plan:
    return planned(load_recipe("quickstart-commonsense", [*FEW, f"model.name={base}", setting]), Request(device))


@pytest.mark.parametrize("setting", ["model.dtype=bfloat16", "model.quantization=nf4"])
def test_files_count_beside_weights_of_another_form(setting: str, narrow: str) -> None:
    files = sum(file.stat().st_size for file in Path(narrow).glob("*.safetensors"))
    memory = made(narrow, setting, own_device()).memory
    config = json.loads((Path(narrow) / "config.json").read_text(encoding="utf-8"))
    largest = config["hidden_size"] * config["intermediate_size"] if "nf4" in setting else 0
    # Four bits are made of shares in float32, levels in 32 and 8 bits, and two halves of bytes: 10 bytes a weight.
    assert memory.loading == files + sum(memory.weights.values()) + 10 * largest
    assert memory.total >= memory.fixed + memory.loading


def test_weights_that_are_used_as_they_lie_there_count_once(narrow: str) -> None:
    assert made(narrow, "model.dtype=float32", own_device()).memory.loading == 0
    assert made(narrow, "model.dtype=bfloat16", named_gpu("12 GB")).memory.loading == 0


def test_the_best_adapter_and_a_checkpoint_s_copy_count_where_a_run_makes_them(narrow: str) -> None:
    whole = ("method.name=full", "train.checkpoint_every=4")
    plans = {own: planned(load_recipe("quickstart-commonsense", [*FEW, f"model.name={narrow}", *whole, own]),
                          Request(own_device())) for own in ("eval.select=best", "eval.select=last")}  # fmt: skip
    best, last = (own.memory for own in plans.values())
    trained = 4 * plans["eval.select=best"].trained
    assert (best.best, last.best) == (trained, 0)
    assert best.resident - last.resident == trained
    assert best.saving == best.optimizer == 2 * trained
    # Both moments of a whole narrow model are more than a batch of four short rows takes.
    assert best.total >= best.fixed + best.resident + best.saving
    assert made(narrow, "model.dtype=bfloat16", named_gpu("12 GB")).memory.saving == 0
