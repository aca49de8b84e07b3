"""MiLoRA's start against float64: what is taken out, what remains, and that the model computes what it did."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reflora_cli.adapters.milora import minor_pair
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from tests.models import HEADS, batch, injected, make


@pytest.mark.parametrize("scale", [0.25, 3.0])
@pytest.mark.parametrize("rank", [1, 5, 40])
@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (48, 48)])
def test_the_weakest_part_is_taken_out_and_the_best_approximation_of_the_other_rank_remains(
    shape: tuple[int, int], rank: int, scale: float
) -> None:
    W = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    A, B = (own.double() for own in minor_pair(W, rank, scale))
    assert (A.shape, B.shape) == ((rank, shape[1]), (shape[0], rank))
    sigma = torch.linalg.svdvals(W.double())
    kept = len(sigma) - rank
    remaining = torch.linalg.svdvals(W.double() - scale * B @ A)
    close = 3e-6 * float(sigma[0])
    torch.testing.assert_close(remaining[:kept], sigma[:kept], atol=close, rtol=0)
    assert (remaining[kept:] < close).all()
    # A A^T = B^T B = diag(sigma / s), of the smallest ones.
    expected = torch.diag(sigma[kept:] / scale)
    for gram in (A @ A.T, B.T @ B):
        torch.testing.assert_close(gram, expected, atol=close / scale, rtol=0)


def test_the_model_computes_what_it_did_and_only_the_weakest_part_is_trained() -> None:
    base, model = make("llama"), make("llama")
    adapted = injected(model, Method(name="milora", rank=3, alpha=6.0), HEADS["llama"], HEADS["llama"])
    inputs, _ = batch()
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, base(**inputs).logits, atol=2e-5, rtol=1e-5)
    for name, layer in adapted.layers.items():
        W: Tensor = base.get_submodule(name).weight.detach().double()
        (pair,) = layer.pairs(name)
        own = torch.linalg.svdvals(pair.scale * (pair.B @ pair.A).double())[:3]
        torch.testing.assert_close(own, torch.linalg.svdvals(W)[-3:], atol=1e-5, rtol=1e-5)


def test_a_rank_beyond_the_weight_is_refused() -> None:
    with pytest.raises(InputError, match="the method needs A and B of full rank"):
        injected(make("bert"), Method(name="milora", rank=17), HEADS["bert"], HEADS["bert"])
