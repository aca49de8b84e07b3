"""What is planned of a streamed base is what its stream takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from reflora_cli.ground.errors import InputError
from reflora_cli.methods.settings import Streaming
from reflora_cli.model.precision import Compute
from reflora_cli.model.streaming import stream_of
from reflora_cli.planning.devices import Device, named_gpu, own_device
from reflora_cli.planning.plan import Plan, Request, planned
from reflora_cli.planning.shown import notes
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.sections import Recipe
from reflora_cli.training.prepare import prepare

FEW = ("task.max_train_rows=16", "task.max_eval_rows=4", "train.epochs=300", "train.batch_size=4", "method.name=lora",
       "model.dtype=float32")  # fmt: skip
GPU = named_gpu("12 GB")


def recipe_of(base: str, *settings: str) -> Recipe:
    return load_recipe("quickstart-commonsense", [*FEW, f"model.name={base}", *settings])


def made(base: str, device: Device, *settings: str) -> Plan:
    return planned(recipe_of(base, *settings), Request(device))


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_blocks_take_what_the_stream_takes(quantization: str, narrow: str) -> None:
    settings = ("model.streaming=host", f"model.quantization={quantization}")
    recipe = recipe_of(narrow, *settings)
    stream = stream_of(prepare(recipe, Compute(torch.device("cpu"), torch.float32), recipe.model).base.model)
    assert stream is not None
    here, there = made(narrow, own_device(), *settings), made(narrow, GPU, *settings)
    blocks = [block.home.layout.size for block in stream.blocks]
    assert here.memory.weights["streamed blocks, two at a time"] == stream.resident_bytes == 2 * max(blocks)
    assert here.memory.weights["streamed blocks where they are kept"] == stream.kept_bytes == sum(blocks)
    assert there.memory.weights["streamed blocks, two at a time"] == stream.resident_bytes
    # Pinned memory of a block is the next power of two.
    (host,) = there.memory.host.values()
    assert sum(blocks) <= host < 2 * sum(blocks)
    assert host.bit_count() <= len(blocks)
    assert any("in host memory" in line for line in notes(there))


def test_everything_else_stays_on_the_gpu(narrow: str) -> None:
    resident, streamed = made(narrow, GPU).memory, made(narrow, GPU, "model.streaming=host").memory
    config = json.loads((Path(narrow) / "config.json").read_text(encoding="utf-8"))
    width, inner = config["hidden_size"], config["intermediate_size"]
    linear = config["num_hidden_layers"] * (4 * width * width + 3 * width * inner) * 4
    rest = sum(size for kind, size in streamed.weights.items() if "streamed" not in kind)
    assert sum(resident.weights.values()) - rest == linear
    assert (streamed.kept, streamed.workspace) == (resident.kept, resident.workspace)


def test_files_keep_blocks_out_of_host_memory(narrow: str) -> None:
    host, disk = (made(narrow, own_device(), f"model.streaming={own}").memory.weights for own in ("host", "disk"))
    assert host["streamed blocks in mapped files"] == host["streamed blocks where they are kept"]
    assert set(host) - set(disk) == {"streamed blocks in mapped files", "streamed blocks where they are kept"}
    plan = made(narrow, GPU, "model.streaming=disk")
    assert plan.state.streamed.way is Streaming.DISK
    # Two blocks are on their way at most.
    assert plan.memory.host == {"streamed blocks": 2 * (1 << (max(plan.state.streamed.blocks) - 1).bit_length())}


def test_streamed_weights_that_would_be_trained_are_refused(narrow: str) -> None:
    with pytest.raises(InputError, match="streamed weights cannot be trained whole"):
        made(narrow, GPU, "model.streaming=host", "method.trainable_modules=[model.layers.0.mlp]")
    made(narrow, GPU, "model.streaming=host", "method.trainable_modules=[model.norm]")
