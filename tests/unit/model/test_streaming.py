"""A streamed base: training follows that of a resident one, and what cannot be streamed is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from reflora_cli.adapters.streamed import StreamedWeight
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from reflora_cli.methods.presets import PRESETS
from reflora_cli.methods.settings import Streaming
from reflora_cli.model.base import parameter_count
from reflora_cli.model.precision import Compute
from reflora_cli.model.quantize import bits_per_weight, quantized_kind
from reflora_cli.model.sources import Source
from reflora_cli.model.streaming import stream_blocks, stream_of, streaming_facts
from reflora_cli.recipe.sections import Recipe
from reflora_cli.training.job import Job
from reflora_cli.training.prepare import prepare
from tests.models import make

COMPUTE = Compute(torch.device("cpu"), torch.float32)
STEPS = 20
MORE: dict[str, dict[str, Any]] = {
    "lora on some": {"name": "lora", "targets": ["q_proj", "v_proj"], "dropout": 0.1},
    "dora with dropout": {"name": "dora", "dropout": 0.1},
}


def warmed(name: str) -> dict[str, Any]:
    """A preset whose rule acts within the steps of these tests."""
    update = Method(name=name).update
    return {"name": name, "update": {"kind": update.kind, "warmup_steps": 2}} if update.plain_steps else {"name": name}


def is_streamed(name: str) -> bool:
    method = Method(name=name)
    return not method.layer.in_place and not method.start.corrects_quantization


METHODS = {name: warmed(name) for name in PRESETS if is_streamed(name)} | MORE


def recipe_of(method: dict[str, Any], **model: Any) -> Recipe:
    sections: dict[str, Any] = {
        "model": {"name": "builtin:tiny-llama", **model},
        "method": method,
        "task": {"name": "builtin/questions", "max_length": 48, "max_train_rows": 40, "max_eval_rows": 4},
        "train": {"steps": STEPS + 20, "batch_size": 4, "micro_batch_size": 4},
        "eval": {"every": "never", "select": "last", "protocol": "choices"},
    }
    return Recipe.model_validate(sections)


def job_of(method: dict[str, Any], **model: Any) -> Job:
    recipe = recipe_of(method, **model)
    return prepare(recipe, COMPUTE, recipe.model)


def trained(method: dict[str, Any], **model: Any) -> tuple[list[float], Tensor]:
    """The losses of some steps, and all that was trained as one vector."""
    job = job_of(method, **model)
    for parameter in job.base.model.parameters():
        parameter.data = parameter.data.clone()  # products round by alignment, which files do not have
    torch.manual_seed(0)
    job.base.model.train()
    losses = []
    for step in range(STEPS):
        rows = [job.rows.training[row] for row in job.sampler.step_rows(step)]
        loss = job.objective.loss_module(**job.objective.arguments(rows)) / 100
        loss.backward()
        job.optimizer.step()
        job.optimizer.zero_grad()
        losses.append(loss.item())
    return losses, torch.cat([own.detach().flatten() for own in job.adapted.parameters.values()])


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_training_follows_a_resident_base_to_the_bit(method: dict[str, Any]) -> None:
    """Every preset: also those whose start moves the base, in host memory."""
    (losses, values), expected = trained(method, streaming="host"), trained(method)
    assert expected[0][0] != expected[0][-1]
    assert losses == expected[0]
    assert torch.equal(values, expected[1])


@pytest.mark.parametrize("method", [METHODS[name] for name in ("dora", "reflora", "prompt")], ids=str)
def test_training_from_files_follows_a_resident_base_to_the_bit(method: dict[str, Any]) -> None:
    (losses, values), expected = trained(method, streaming="disk"), trained(method)
    assert losses == expected[0]
    assert torch.equal(values, expected[1])


@pytest.mark.parametrize("method", [METHODS[name] for name in ("dora", "reflora", "pissa")], ids=str)
def test_a_quantized_base_is_kept_packed_in_host_memory(method: dict[str, Any]) -> None:
    expected = trained(method, quantization="nf4")
    losses, values = trained(method, quantization="nf4", streaming="host")
    assert losses == expected[0]
    assert torch.equal(values, expected[1])


def test_all_linear_layers_of_blocks_are_streamed_and_counted_as_before() -> None:
    plain, job = (
        job_of({"name": "lora"}, quantization="nf4"),
        job_of({"name": "lora"}, quantization="nf4", streaming="host"),
    )
    assert stream_of(plain.base.model) is None
    assert streaming_facts(plain.base.model) == {}
    stream = stream_of(job.base.model)
    assert stream is not None
    streamed = [own for own in job.base.model.modules() if isinstance(own, StreamedWeight)]
    assert len(streamed) == len(job.adapted.layers) == 7 * len(stream.blocks)
    assert parameter_count(job.base.model) == parameter_count(plain.base.model)
    assert quantized_kind(job.base.model) == "nf4"
    assert bits_per_weight(job.base.model) == bits_per_weight(plain.base.model)
    assert f"in {len(stream.blocks)} blocks" in job.facts()["streamed"]


def test_a_model_without_blocks_is_refused(tmp_path: Path) -> None:
    model = make("bert")
    model.bert.encoder.layer = torch.nn.ModuleList()
    with pytest.raises(InputError, match="no list of blocks"):
        stream_blocks(model, Streaming.HOST, Source("x", str(tmp_path), None, is_local=True), ())


def test_files_with_other_values_or_names_are_refused(tmp_path: Path) -> None:
    model = make("bert")
    model.save_pretrained(tmp_path)
    source = Source("x", str(tmp_path), None, is_local=True)
    model.bert.encoder.layer[1].output.dense.weight.data += 1
    with pytest.raises(InputError, match="in another form") as found:
        stream_blocks(model, Streaming.DISK, source, ())
    assert "bert.encoder.layer.1.output.dense.weight" in found.value.problems[0].found


@pytest.mark.parametrize(
    ("method", "model", "key"),
    [
        ({"name": "lora"}, {"streaming": "host", "sharded": True}, "streaming"),
        ({"name": "lora"}, {"streaming": "disk", "quantization": "nf4"}, "streaming"),
        ({"name": "full"}, {"streaming": "host"}, "streaming"),
        ({"name": "bitfit"}, {"streaming": "disk"}, "streaming"),
        ({"name": "pissa"}, {"streaming": "disk"}, "streaming"),
        ({"name": "lora", "start": "loftq"}, {"streaming": "host", "quantization": "nf4"}, "streaming"),
    ],
)
def test_what_cannot_be_streamed_is_refused(method: dict[str, Any], model: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        recipe_of(method, **model)


def test_a_module_of_a_block_is_not_trained_whole() -> None:
    with pytest.raises(InputError, match="streamed weights cannot be trained whole"):
        job_of({"name": "lora", "targets": ["q_proj"], "trainable_modules": ["model.layers.0.mlp"]}, streaming="host")
