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
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.settings import Quantization
from reflora_cli.model.precision import Compute, precision
from reflora_cli.planning import passes
from reflora_cli.planning.devices import named_gpu, own_device, pinned
from reflora_cli.planning.meter import Meter
from reflora_cli.planning.passes import Traced, lend_weights
from reflora_cli.planning.plan import Plan, Request, planned
from reflora_cli.planning.shown import notes
from reflora_cli.planning.skeleton import quantized_shape, token_inputs, without_values
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.sections import Recipe
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.training.job import Job
from reflora_cli.training.offload import HostActivations, addresses
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


def arguments_for(plan: Plan, job: Job) -> dict[str, Tensor]:
    """A batch of the planned shape, with values."""
    batch = plan.batch
    arguments: dict[str, Tensor] = token_inputs(batch.rows, batch.length)
    arguments["attention_mask"][0, -1] = 0  # without padding the mask would not be made
    if isinstance(job.task, SequenceTask):
        arguments["labels"] = torch.zeros(batch.rows, dtype=torch.long)
    else:
        places = torch.arange(batch.learned)
        arguments |= {"supervised": places, "targets": torch.zeros(batch.learned, dtype=torch.long)}
    return arguments


def really_kept(plan: Plan, job: Job) -> int:
    """The bytes that a pass with values keeps over a batch of the planned shape."""
    model = job.base.model
    model.train()
    run: Callable[..., Tensor] = job.objective.loss_module
    with keeping(model) as kept, precision(CPU, job.compute.dtype):
        loss = run(**arguments_for(plan, job))
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


@pytest.mark.parametrize("setting", ["method.dropout=0.1", "model.dtype=bfloat16"])
@pytest.mark.parametrize("kind", SMALL)
def test_what_a_gpu_computes_again_is_traced_as_its_own_kernels_keep_it(kind: str, setting: str, narrow: str) -> None:
    settings = (f"model.name={narrow}", "method.name=lora", "train.gradient_checkpointing=true")
    plain, found = (
        planned(few(kind, *settings, *more), Request(named_gpu("12 GB")))
        for more in (("model.dtype=float32",), ("model.dtype=float32", setting))
    )
    assert found.memory.way == plain.memory.way == "traced"
    # The inputs of blocks, which half precision halves and dropout within a block leaves alone.
    assert found.memory.kept <= 1.01 * plain.memory.kept


def test_a_pass_that_cannot_be_traced_has_logits_too(narrow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Traced:
        raise ValueError("no values")

    monkeypatch.setattr(passes, "extrapolated", fails)
    monkeypatch.setattr(passes, "estimated", lambda *_: Traced(10, 11, 0, "a formula"))
    memory = planned(few("answers", f"model.name={narrow}"), Request(named_gpu("12 GB"))).memory
    assert memory.way == "a formula"
    assert memory.workspace == memory.logits > 0


def test_logits_take_a_share_of_the_gpu_s_memory(wide: str) -> None:
    settings = (f"model.name={wide}", "task.max_length=512", "model.dtype=bfloat16")
    small, large = (planned(few("answers", *settings), Request(named_gpu(own))).memory for own in ("4 GB", "80 GB"))
    assert 0 < small.logits <= small.available / 64
    assert large.logits > 4 * small.logits


def test_attention_is_computed_as_the_recipe_says(wide: str) -> None:
    settings = (f"model.name={wide}", "model.dtype=float32", "task.max_length=256")
    plans = {
        own: planned(few("answers", *settings, f"model.attention={own}"), Request(named_gpu("12 GB")))
        for own in ("auto", "sdpa", "eager", "flex_attention")
    }
    kept, batch = {own: plan.memory.kept for own, plan in plans.items()}, plans["auto"].batch
    assert kept["auto"] == kept["sdpa"] == kept["flex_attention"]
    # Both heads keep the probabilities of all pairs of tokens, in two blocks; `sdpa` keeps its output and the mask.
    assert kept["eager"] > kept["sdpa"] + 0.9 * 2 * batch.rows * batch.length**2 * 4
    assert any("flex_attention: counted as" in line for line in notes(plans["flex_attention"]))
    with pytest.raises(InputError, match="cannot be computed on this machine"):
        planned(few("answers", *settings, "model.attention=flash_attention_2"), Request(own_device()))
    with pytest.raises(InputError, match="cannot be computed in float32"):
        planned(few("answers", *settings, "model.attention=flash_attention_2"), Request(named_gpu("12 GB")))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_go_to_host_memory_as_in_training(checkpointing: bool, narrow: str) -> None:
    large = ("train.batch_size=64", "train.micro_batch_size=64", "task.max_train_rows=64", "model.dtype=float32",
             f"train.gradient_checkpointing={str(checkpointing).lower()}")  # fmt: skip
    recipes = [few("answers", f"model.name={narrow}", *large, f"train.offload_activations={own}")
               for own in ("false", "true")]  # fmt: skip
    resident, plan = (planned(own, Request(named_gpu("12 GB"))) for own in recipes)
    job = prepare(recipes[1], Compute(CPU, torch.float32), recipes[1].model)
    job.base.model.train()
    real = HostActivations(addresses(job.base.model))
    run: Callable[..., Tensor] = job.objective.loss_module
    with real.keeping():
        loss = run(**arguments_for(plan, job))
    moved = [own.host.nbytes for held in real.kept if (own := held()) is not None]
    assert sum(moved) > 2**20
    assert plan.memory.host == {"activations": sum(map(pinned, moved))}
    # Two may be held on the device by something else than the backward pass.
    assert resident.memory.kept - sum(moved) <= plan.memory.kept <= resident.memory.kept - sum(moved) + 2 * max(moved)
    # Of two blocks whose inputs alone are kept, both are back at a time.
    assert checkpointing or plan.memory.in_pass < resident.memory.in_pass
    loss.backward()


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
