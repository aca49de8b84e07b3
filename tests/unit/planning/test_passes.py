"""A traced pass keeps the bytes that the same pass keeps with values, as autograd's own hooks see them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reflora_cli.adapters.workspace import is_known
from reflora_cli.methods.settings import Quantization
from reflora_cli.model.precision import Compute, precision
from reflora_cli.planning.devices import own_device
from reflora_cli.planning.meter import Meter
from reflora_cli.planning.passes import lend_weights
from reflora_cli.planning.plan import Plan, Request, planned
from reflora_cli.planning.skeleton import quantized_shape, token_inputs, without_values
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.sections import Recipe
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.training.job import Job
from reflora_cli.training.prepare import prepare

CPU = torch.device("cpu")
FEW = ("task.max_train_rows=32", "task.max_eval_rows=8", "train.epochs=300", "train.batch_size=8",
       "train.micro_batch_size=8", "method.name=lora")  # fmt: skip
SMALL = {"labels": "quickstart", "answers": "quickstart-commonsense"}


class Kept:
    """The bytes that autograd keeps for the backward pass of what runs in the context, parameters excepted."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.found: dict[int, tuple[int, weakref.ref[Any]]] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        own = {other.untyped_storage()._cdata for other in (*self.model.parameters(), *self.model.buffers())}
        if storage._cdata not in own:
            self.found[storage._cdata] = (storage.nbytes(), weakref.ref(storage))
        return tensor

    def total(self) -> int:
        """The bytes of all that is still held: the loss drops what its chunks kept as soon as it has their gradient."""
        return sum(size for size, held in self.found.values() if held() is not None)


@contextmanager
def keeping(model: nn.Module) -> Iterator[Kept]:
    kept = Kept(model)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        yield kept


def few(kind: str, *settings: str) -> Recipe:
    return load_recipe(SMALL[kind], [*FEW, *settings])


def made(recipe: Recipe) -> tuple[Plan, Job]:
    plan = planned(recipe, Request(own_device()))
    dtype = torch.bfloat16 if plan.dtype == "bfloat16" else torch.float32
    return plan, prepare(recipe, Compute(CPU, dtype), recipe.model)


def really_kept(plan: Plan, job: Job) -> int:
    """The bytes that a pass with values keeps over a batch of the planned shape."""
    batch, model = plan.batch, job.base.model
    arguments: dict[str, Tensor] = token_inputs(batch.rows, batch.length)
    arguments["attention_mask"][0, -1] = 0  # without padding the mask would not be made
    if isinstance(job.task, SequenceTask):
        arguments["labels"] = torch.zeros(batch.rows, dtype=torch.long)
    else:
        places = torch.arange(batch.learned)
        arguments |= {"supervised": places, "targets": torch.zeros(batch.learned, dtype=torch.long)}
    model.train()
    run: Callable[..., Tensor] = job.objective.loss_module
    with keeping(model) as kept, precision(CPU, job.compute.dtype):
        loss = run(**arguments)
    total = kept.total()
    loss.backward()
    return total


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("labels", ("method.name=dora", "model.dtype=bfloat16")),
        ("labels", ("method.dropout=0.1", "method.name=lora")),
        ("answers", ("model.quantization=nf4",)),
        ("answers", ("method.name=full", "model.dtype=bfloat16")),
        ("labels", ("method.name=prompt",)),
        ("answers", ("method.name=prefix",)),
    ],
    ids=str,
)
def test_what_is_kept_for_the_backward_pass_is_found_without_values(
    kind: str, settings: tuple[str, ...], narrow: str
) -> None:
    plan, job = made(few(kind, f"model.name={narrow}", *settings))
    real = really_kept(plan, job)
    # Both count every storage once. What differs is a few scalars and masks, whatever the size of the batch.
    assert real > 500_000
    assert plan.memory.way == "traced"
    assert plan.memory.kept == pytest.approx(real, rel=0.01)


def test_dense_weights_of_products_share_memory_on_a_cpu() -> None:
    with without_values():
        plain = [nn.Linear(64, own, bias=False) for own in (128, 256)]
        layers = [quantized_shape(own, Quantization.NF4, True, torch.float32) for own in plain]
        assert lend_weights(nn.Sequential(*layers)) == (256 * 64 * 4 if is_known() else 0)
        with Meter() as meter, torch.no_grad():
            outputs = [own(torch.empty(3, 64)) for own in layers]
    assert [tuple(own.shape) for own in outputs] == [(3, 128), (3, 256)]
    assert (meter.peak < 128 * 64 * 4) == is_known()


def test_what_more_blocks_keep_follows_from_a_few() -> None:
    plan, job = made(few("labels"))
    assert plan.memory.way == "traced on 2 and 4 of 5 equal blocks"
    assert plan.memory.kept == pytest.approx(really_kept(plan, job), rel=0.01)


@pytest.mark.parametrize("kind", SMALL)
def test_recomputed_activations_are_not_kept(kind: str, narrow: str) -> None:
    plan, job = made(few(kind, f"model.name={narrow}", "train.gradient_checkpointing=true"))
    real = really_kept(plan, job)
    # A mask and positions differ, whatever the width.
    assert plan.memory.kept == pytest.approx(real, abs=16 * 2**10)
    # What is computed again exists beside it in the backward pass.
    assert plan.memory.workspace > plan.memory.kept / 5


@pytest.mark.parametrize("name", ["dora", "full", "lora-rite", "lora-pro"])
def test_trained_parameters_and_optimizer_state_are_exact(name: str, narrow: str) -> None:
    plan, job = made(few("labels", f"model.name={narrow}", f"method.name={name}"))
    parameters = job.adapted.parameters
    assert plan.trained == sum(own.numel() for own in parameters.values())
    assert plan.state.adapter == sum(own.nbytes for own in parameters.values())
    for own in parameters.values():
        own.grad = torch.rand_like(own) * 1e-3
    job.optimizer.step()
    tensors = job.optimizer.tensors(parameters)
    real = sum(own.nbytes for key, own in tensors.items() if not key.startswith("step."))
    assert plan.state.optimizer == pytest.approx(real, abs=64)  # a rule counts its own steps
