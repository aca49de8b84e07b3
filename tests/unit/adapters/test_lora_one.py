"""LoRA-One's start: one step of gradient descent of rank r, in float64, which lowers the loss; and its preset."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.dora import DoRALinear
from reflora_cli.adapters.gradients import weight_gradients
from reflora_cli.adapters.inject import inject
from reflora_cli.adapters.lora_one import one_step_pair
from reflora_cli.adapters.sight import Pass, Sight
from reflora_cli.adapters.start import generator_for, low_rank_layers, start, uniform
from reflora_cli.methods.method import Method
from reflora_cli.methods.starts import LoRAOneStart
from tests.models import HEADS, batch, injected, make, sight_of


def gradient() -> Tensor:
    """A matrix whose singular values fall by a factor of 1000."""
    return torch.randn(20, 12, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -3, 12)


@pytest.mark.parametrize("iterations", [None, 8])
@pytest.mark.parametrize("rank", [1, 4, 12])
def test_the_pair_is_a_balanced_step_of_rank_r(rank: int, iterations: int | None) -> None:
    G = gradient()
    A, B = one_step_pair(G, rank, LoRAOneStart(gamma=50.0, iterations=iterations), torch.Generator().manual_seed(0))
    U, sigma, V = torch.linalg.svd(G.double(), full_matrices=False)
    step = -(U[:, :rank] * sigma[:rank] @ V[:rank]) / (50 * sigma[0])
    torch.testing.assert_close(B.double() @ A.double(), step, rtol=0, atol=1e-7)
    torch.testing.assert_close(A @ A.T, B.T @ B, rtol=0, atol=1e-8)


@pytest.mark.parametrize("layer", ["lora", "dora"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_the_loss_of_the_seen_rows_falls_at_first_order_by_the_step(name: str, layer: str) -> None:
    """With a short step, by sum_l <G_l, s B A>: W of every module takes its own step, and stays frozen as it was."""
    base = make(name).eval()
    method = Method(name="lora-one", rank=4, layer=layer, start={"kind": "lora-one", "gamma": 1e4})
    model = copy.deepcopy(base)
    adapted = injected(model, method, HEADS[name], HEADS[name], rows=64)
    looked = copy.deepcopy(base)
    layers = low_rank_layers(inject(looked, method, HEADS[name], HEADS[name]))
    gradients = weight_gradients(layers, "own", 64, sight_of(looked, 64))
    expected = 0.0
    for path, own in low_rank_layers(adapted).items():
        assert own.offset_rank == 0
        assert torch.equal(own.frozen.dense(), layers[path].frozen.dense())
        expected += float((gradients[path] * (own.scale * own.B @ own.A).detach()).sum())
        if isinstance(own, DoRALinear):
            torch.testing.assert_close(own.magnitude.detach(), own.dense_sum().norm(dim=1))
    inputs, labels = batch(0, 64)
    with torch.no_grad():
        after, before = (
            F.cross_entropy(one.eval().double()(**inputs).logits, labels, reduction="sum").item()
            for one in (merged(base, adapted), base)
        )
    assert after < before
    assert after - before == pytest.approx(expected, rel=0.1)


def merged(base: torch.nn.Module, adapted: Adapted) -> torch.nn.Module:
    """The base with merged weights, which can compute in float64."""
    model = copy.deepcopy(base)
    for name, layer in adapted.layers.items():
        model.set_submodule(name, layer.frozen.thaw(layer.merged()))
    return model


def test_without_a_gradient_a_module_starts_as_by_default() -> None:
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(6, 6), "dead": torch.nn.Linear(6, 6)})
    method = Method(name="lora-one", rank=2)
    adapted = inject(model, method, [], [])

    class Loss:
        def __enter__(self) -> Tensor:
            return model["used"](torch.ones(3, 6)).square().sum() + 0 * model["dead"](torch.ones(3, 6)).sum()

        def __exit__(self, *_: object) -> None: ...

    start(adapted, method.start, 0, Sight([Pass(lambda: None, torch.ones(3, 1), 3, Loss)], lambda _: None, 3))
    used, dead = low_rank_layers(adapted).values()
    assert used.B.any()
    assert not dead.B.any()
    assert torch.equal(dead.A, uniform(2, 6, generator_for(0, "dead")))


def test_the_preset_steps_as_scaled_gd_from_the_first_step_on_unless_told_otherwise() -> None:
    own = Method(name="lora-one")
    assert (own.update.kind, own.update.plain_steps, own.scaling) == ("scaled-gd", 0, "rslora")
    assert Method.model_validate({"name": "lora-one", "refactor": {"warmup_steps": 3}}).update.plain_steps == 3
    assert Method.model_validate({"name": "lora-one", "update": "plain"}).update.is_plain
