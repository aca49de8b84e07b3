"""Activations in host memory: the same training to the bit, each large tensor copied once, and weights left alone."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from reflora_cli.training.offload import HostActivations, Kept, addresses
from reflora_cli.training.prepare import prepare
from tests.unit.model.test_streaming import COMPUTE, recipe_of

STEPS = 20
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora", "dropout": 0.1},
    "dora": {"name": "dora"},
    "reflora": {"name": "reflora", "update": {"kind": "reflora", "warmup_steps": 2}},
    "houlsby": {"name": "houlsby"},
    "full": {"name": "full"},
    "prompt": {"name": "prompt"},
}


def trained(
    method: dict[str, Any], checkpointing: bool, offloads: bool, **model: Any
) -> tuple[list[float], Tensor, int]:
    """The losses of some steps, all that was trained as one vector, and how many tensors waited in host memory."""
    recipe = recipe_of(method, **model)
    recipe = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"gradient_checkpointing": checkpointing})}
    )
    job = prepare(recipe, COMPUTE, recipe.model)
    torch.manual_seed(0)
    job.base.model.train()
    losses, moved = [], 0
    weights = addresses(job.objective.loss_module)
    for step in range(STEPS):
        rows = [job.rows.training[row] for row in job.sampler.step_rows(step)]
        host = HostActivations(weights, smallest=2048)
        with host.keeping() if offloads else contextlib.nullcontext():
            loss = job.objective.loss_module(**job.objective.arguments(rows)) / 100
        loss.backward()
        job.optimizer.step()
        job.optimizer.zero_grad()
        losses.append(loss.item())
        moved += len(host.kept)
    return losses, torch.cat([own.detach().flatten() for own in job.adapted.parameters.values()]), moved


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_twenty_steps_are_the_same_to_the_bit(method: dict[str, Any], checkpointing: bool) -> None:
    plain, offloaded = trained(method, checkpointing, False), trained(method, checkpointing, True)
    assert offloaded[2] >= 5 * STEPS  # at least the inputs of the five blocks
    assert offloaded[0] == plain[0]
    assert torch.equal(offloaded[1], plain[1])


def test_offloading_goes_with_a_quantized_base_that_is_streamed() -> None:
    plain = trained({"name": "dora"}, True, False, quantization="nf4")
    both = trained({"name": "dora"}, True, True, quantization="nf4", streaming="host")
    assert both[0] == plain[0]
    assert torch.equal(both[1], plain[1])


def test_weights_and_small_tensors_stay_and_shared_ones_are_copied_once() -> None:
    linear, gain = nn.Linear(64, 64), nn.Parameter(torch.ones(64))
    x = torch.randn(32, 64, requires_grad=True)
    host = HostActivations(addresses(linear), smallest=4096)
    packed = list[object]()

    def pack(tensor: Tensor) -> Tensor | Kept:
        packed.append(host.pack(tensor))
        return host.pack(tensor)

    with saved_tensors_hooks(pack, host.unpack):
        hidden = linear(x) * gain
        loss = (hidden.sin() + hidden.cos()).sum()
    assert sum(isinstance(own, Kept) for own in packed) >= 3
    assert len(host.kept) == len({id(own) for own in packed if isinstance(own, Kept)}) == 3  # x, W x + b, its product
    kept = [own for own in packed if isinstance(own, Tensor)]
    assert any(own.untyped_storage().data_ptr() == linear.weight.untyped_storage().data_ptr() for own in kept)
    packed.clear()
    loss.backward()
    expected = torch.autograd.grad((linear(x) * gain).sin().sum() + (linear(x) * gain).cos().sum(), x)[0]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)


def test_memory_that_is_used_again_is_not_taken_for_what_was_there_before() -> None:
    """Addresses repeat: a tensor is known by its memory's identity, and by how often it was changed."""
    host = HostActivations((), smallest=1)
    found = list[Kept]()
    for value in range(8):
        tensor = torch.full((1000,), float(value))
        kept = host.pack(tensor)
        assert isinstance(kept, Kept)
        found.append(kept)
        tensor.add_(100)
        changed = host.pack(tensor)
        assert isinstance(changed, Kept)
        found.append(changed)
        del tensor
    values = [host.unpack(own)[0].item() for own in reversed(found)]
    assert values == [own for value in reversed(range(8)) for own in (value + 100.0, float(value))]
    assert len(host.arrived) <= 2


def test_host_memory_is_given_back_with_the_graph() -> None:
    x = torch.randn(100, 100, requires_grad=True)
    host = HostActivations((), smallest=1)
    with host.keeping():
        loss = x.sin().sin().sum()
    assert all(own() is not None for own in host.kept)
    loss.backward()
    assert all(own() is None for own in host.kept)
