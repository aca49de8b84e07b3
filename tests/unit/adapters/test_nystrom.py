"""NoRA's start against its formula: A in the row space of the frozen weight, and the base as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from reflora_cli.adapters.adaptation import adapt
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.frozen import FrozenWeight, freeze
from reflora_cli.adapters.inject import build_layer
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.adapters.nystrom import sketched_rows
from reflora_cli.adapters.quantized import quantize
from reflora_cli.adapters.start import generator_for, start
from reflora_cli.methods.layers import LAYERS
from reflora_cli.methods.starts import NoraStart
from reflora_cli.optim.pair_sgd import PairSGD
from reflora_cli.optim.preclora import PrecLoRARule
from tests.models import batch, make
from tests.unit.optim.references import conditioned, pair_of

WITH_PAIRS = [kind for kind, layer in LAYERS.items() if layer.has_pairs]


def weight(rank: int = 48) -> Tensor:
    """W [48, 64] of that rank, float64."""
    g = torch.Generator().manual_seed(0)
    return conditioned(48, rank, 10.0, g) @ conditioned(rank, 64, 10.0, g)


def frozen(kind: str) -> FrozenWeight:
    W = weight().float()
    if kind == "transposed":
        module: nn.Module = Conv1D(48, 64)
        module.weight.data = W.T.contiguous()
        return freeze(module)
    if kind == "nf4":
        return freeze(quantize(W, None, kind, double=True, dtype=torch.float32, layout=nn.Linear))
    module = nn.Linear(64, 48)
    module.weight.data = W
    return freeze(module.to(torch.bfloat16) if kind == "bfloat16" else module)


def started(base: FrozenWeight, layer: str, scale: float, sigma: float, seed: int = 0) -> LowRankLayer:
    zeros = torch.zeros(4, base.in_features), torch.zeros(base.out_features, 4)
    own = build_layer(LAYERS[layer](), base, zeros, scale, 0.0)
    assert isinstance(own, LowRankLayer)
    start(Adapted({"m": own}, {}, {}), NoraStart(sigma=sigma), seed)
    return own


@pytest.mark.parametrize("layer", WITH_PAIRS)
@pytest.mark.parametrize("kind", ["float32", "transposed", "bfloat16", "nf4"])
def test_a_is_a_sketch_of_the_frozen_weight_as_it_is_and_the_base_stays(kind: str, layer: str) -> None:
    """On four bits the weight is the dequantized one."""
    scale, sigma = 1.5, 0.02
    base = frozen(kind)
    W = base.dense().double()
    own = started(base, layer, scale, sigma)
    Omega = torch.randn(4, 48, generator=generator_for(0, "m")).double()
    torch.testing.assert_close(own.A.detach().double(), sigma / scale * Omega @ W, rtol=1e-5, atol=1e-8)
    assert not own.B.any()
    assert own.offset_rank == 0
    assert torch.equal(own.frozen.dense(), W.float())
    if kind == "nf4":
        assert not torch.equal(W.float(), weight().float())


def test_rows_of_a_are_combinations_of_rows_of_w_of_the_size_that_sigma_says() -> None:
    W = weight(rank=6)
    A = sketched_rows(W, 4, 2.0, 0.1, generator_for(0, "m"))
    P = torch.linalg.pinv(W) @ W
    torch.testing.assert_close(A @ P, A, rtol=1e-9, atol=1e-12)
    drawn = torch.cat([sketched_rows(W, 4, 2.0, 0.1, generator_for(seed, "m")) for seed in range(500)])
    size = drawn.square().sum(1).mean().sqrt()
    assert size.item() == pytest.approx(0.1 / 2.0 * W.norm().item(), rel=0.05)


def test_it_is_drawn_by_seed_and_module() -> None:
    one, again, other = (started(frozen("float32"), "lora", 1.0, 0.1, seed) for seed in (0, 0, 1))
    assert torch.equal(one.A, again.A)
    assert not torch.equal(one.A, other.A)


@pytest.mark.parametrize("begun", ["nora", "gaussian"])
def test_one_step_of_scaled_gd_solves_the_problem_of_exact_rank_from_a_sketch_of_its_weight(begun: str) -> None:
    """min ||M - BA||^2 / 2 with M of rank r and A a sketch of M: at a rate of 1, B = M A^+ and BA = M, whose rows are
    those of A. From other rows a part of M remains."""
    g = torch.Generator().manual_seed(1)
    M = conditioned(12, 3, 20.0, g) @ conditioned(3, 10, 20.0, g)
    rows = torch.randn(3, 10, generator=g, dtype=torch.float64)
    A = sketched_rows(M, 3, 1.0, 0.1, generator_for(0, "m")) if begun == "nora" else rows
    pair = pair_of(A, torch.zeros(12, 3, dtype=torch.float64))
    group = {"params": [pair.A, pair.B], "lr": 1.0, "weight_decay": 0.0}
    optimizer = PairSGD([group], PrecLoRARule([pair], 0, 1, 1e-12), 0.0)
    (0.5 * (M - pair.B @ pair.A).square().sum()).backward()
    optimizer.step()
    left = ((M - (pair.B @ pair.A).detach()).norm() / M.norm()).item()
    assert left < 1e-4 if begun == "nora" else left > 0.1


def test_the_library_starts_so_too() -> None:
    base = make("gpt2")
    model = copy.deepcopy(base)
    adapted = adapt(model, "c_attn", rank=4, start="nora", trainable=["score"])
    inputs, _ = batch()
    assert torch.equal(model(**inputs).logits, base(**inputs).logits)
    assert all(pair.A.any() for pair in adapted.pairs)
