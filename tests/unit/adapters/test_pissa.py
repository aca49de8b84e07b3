"""PiSSA's start against float64: what is taken out, what remains, and that the model computes what it did."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from reflora_cli.adapters.adaptation import adapt
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.frozen import freeze
from reflora_cli.adapters.inject import build_layer
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.adapters.pissa import principal_pair
from reflora_cli.adapters.quantized import quantize
from reflora_cli.adapters.start import generator_for, start
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.layers import LAYERS
from reflora_cli.methods.method import Method
from reflora_cli.methods.starts import PissaStart
from tests import language_models
from tests.models import HEADS, batch, injected, make

WITH_PAIRS = [kind for kind, layer in LAYERS.items() if layer.has_pairs]

SHAPES = ((40, 64), (64, 40), (48, 48))


def weight(shape: tuple[int, int] = (48, 64), seed: int = 0) -> Tensor:
    """A weight whose singular values fall slowly, as those of trained ones."""
    generator = torch.Generator().manual_seed(seed)
    U, sigma, V = torch.linalg.svd(torch.randn(shape, generator=generator, dtype=torch.float64), full_matrices=False)
    return (U * sigma.pow(2)).float() @ V.float() / 20


def pair(W: Tensor, rank: int, scale: float, iterations: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    return principal_pair(W, rank, scale, iterations, generator_for(seed, "module"))


@pytest.mark.parametrize("scale", [0.25, 1.0, 3.0])
@pytest.mark.parametrize("rank", [1, 5, 40])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_best_approximation_is_taken_out_and_the_other_singular_values_remain(
    shape: tuple[int, int], rank: int, scale: float
) -> None:
    """Eckart-Young in float64: the distance of W and s B A is that of no other matrix of this rank."""
    W = weight(shape)
    A, B = pair(W, rank, scale)
    assert (A.shape, B.shape) == ((rank, shape[1]), (shape[0], rank))
    sigma = torch.linalg.svdvals(W.double())
    rest = W.double() - scale * B.double() @ A.double()
    remaining = torch.linalg.svdvals(rest)
    close = 3e-6 * float(sigma[0])
    torch.testing.assert_close(remaining[: len(sigma) - rank], sigma[rank:], atol=close, rtol=0)
    assert (remaining[len(sigma) - rank :] < close).all()
    balance = A.double() @ A.double().T
    torch.testing.assert_close(balance, B.double().T @ B.double(), atol=close / scale, rtol=0)
    torch.testing.assert_close(balance, torch.diag(sigma[:rank] / scale), atol=close / scale, rtol=0)


@pytest.mark.parametrize(("iterations", "accepted"), [(1, 0.5), (4, 0.05), (16, 1e-5)])
def test_the_randomized_subspace_comes_close_to_the_exact_one(iterations: int, accepted: float) -> None:
    """The sine of the largest angle between both, and what of W is missed beyond the exact remainder."""
    W = weight((96, 64), seed=1)
    exact, found = pair(W, 6, 2.0), pair(W, 6, 2.0, iterations)
    ours, theirs = (torch.linalg.qr(own[1].double()).Q for own in (exact, found))
    assert torch.linalg.matrix_norm(theirs - ours @ (ours.T @ theirs), 2) < accepted
    misses = [float((W.double() - 2.0 * B.double() @ A.double()).norm()) for A, B in (exact, found)]
    assert misses[0] - 1e-6 <= misses[1] < misses[0] * (1 + accepted**2 + 1e-6)
    A, B = found
    torch.testing.assert_close(A @ A.T, B.T @ B, atol=1e-5, rtol=0)


def test_the_randomized_decomposition_is_drawn_by_seed_and_module() -> None:
    W = weight()
    first, again, other = pair(W, 3, 1.0, 0), pair(W, 3, 1.0, 0), pair(W, 3, 1.0, 0, seed=1)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    wide = pair(W, 48, 1.0, 0)  # no more random vectors than the weight has dimensions
    torch.testing.assert_close(wide[1] @ wide[0], W, atol=1e-4, rtol=1e-4)


def started(base: nn.Module, layer: str, rank: int = 4, scale: float = 1.5) -> LowRankLayer:
    frozen = freeze(base)
    zeros = torch.zeros(rank, frozen.in_features), torch.zeros(frozen.out_features, rank)
    own = build_layer(LAYERS[layer](), frozen, zeros, scale, 0.0)
    assert isinstance(own, LowRankLayer)
    start(Adapted({"m": own}, {}, {}), PissaStart(), 0)
    return own


def linear(kind: str) -> nn.Module:
    W = weight()
    if kind == "transposed":
        module: nn.Module = Conv1D(48, 64)
        module.weight.data = W.T.contiguous()
        return module
    if kind in ("nf4", "fp4", "int8"):
        return quantize(W, None, kind, double=True, dtype=torch.float32, layout=nn.Linear)
    module = nn.Linear(64, 48)
    module.weight.data = W
    return module.to(torch.bfloat16) if kind == "bfloat16" else module


STEP_0 = {"float32": 1e-6, "transposed": 1e-6, "bfloat16": 2**-8, "int8": 0.005, "nf4": 0.16, "fp4": 0.18}
"""The largest accepted difference of a weight at step 0, as a share of the largest entry of what remains in the base:
the rounding of bfloat16, half a step of int8, half the widest gap of the four-bit levels, and a little for rounded
scales."""


@pytest.mark.parametrize("layer", WITH_PAIRS)
@pytest.mark.parametrize("kind", STEP_0)
def test_a_layer_starts_as_its_base_up_to_one_rounding_of_what_remains(kind: str, layer: str) -> None:
    base = linear(kind)
    W = freeze(base).dense()
    own = started(base, layer)
    rest = W - 1.5 * (own.B @ own.A).detach()
    error = (own.merged() - W).abs().max()
    assert error <= STEP_0[kind] * rest.abs().max() + 2e-6
    assert kind in ("float32", "transposed") or error > 0
    # Less is lost than if W itself were rounded once more: what remains is smaller.
    assert rest.abs().max() < W.abs().max()
    assert own.offset_rank == own.rank == 4


def test_a_tied_head_is_moved_alone() -> None:
    """The embedding that shares its weight stays as it was."""
    model = language_models.make("llama-tied")
    inputs = {"input_ids": torch.arange(1, 9)[None]}
    with torch.no_grad():
        expected, embedding = model(**inputs).logits, model.get_input_embeddings().weight.clone()
    method = Method(name="pissa", rank=4, alpha=6.0, targets=("lm_head", "q_proj"))
    injected(model, method, [], [])
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, expected, atol=2e-5, rtol=1e-5)
    assert torch.equal(model.get_input_embeddings().weight, embedding)


def test_a_rank_beyond_the_weight_is_refused() -> None:
    with pytest.raises(InputError, match="the method needs A and B of full rank") as caught:
        injected(make("bert"), Method(name="pissa", rank=17), HEADS["bert"], HEADS["bert"])
    assert caught.value.problems[0].expected == "at most 16 for a weight of 16 x 16"
    with pytest.raises(InputError, match="full rank"):
        adapt(make("bert"), "query", rank=17, start="pissa")
    # With factors of an earlier adapter nothing is decomposed.
    assert not Method(name="pissa", after="runs/earlier").needs_full_rank


@pytest.mark.parametrize("update", ["reflora", "scaled-gd"])
def test_a_rule_acts_from_the_first_step(update: str) -> None:
    """The pair is balanced and of full rank at once: no warm-up is needed, and S is the identity."""
    method = Method(name="pissa", rank=3, update={"kind": update, "warmup_steps": 0})
    model = make("llama")
    adapted = injected(model, method, HEADS["llama"], HEADS["llama"])
    for own in adapted.pairs:
        torch.testing.assert_close(own.A @ own.A.T, own.B.T @ own.B, atol=1e-4, rtol=1e-4)


def test_the_library_starts_so_too() -> None:
    base = make("gpt2")
    model = copy.deepcopy(base)
    adapt(model, "c_attn", rank=4, start="pissa", trainable=["score"])
    inputs, labels = batch()
    torch.testing.assert_close(model(**inputs).logits, base(**inputs).logits, atol=1e-5, rtol=1e-5)
    F.cross_entropy(model(**inputs).logits, labels).backward()
