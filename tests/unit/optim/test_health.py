"""What is said of adapters while they train, against dense float64 mathematics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.health import pair_health, unreached
from tests.unit.optim.references import conditioned


def pair(name: str, A: torch.Tensor, B: torch.Tensor) -> FactorPair:
    return FactorPair(name, nn.Parameter(A.float()), nn.Parameter(B.float()), 1.0)


def test_every_figure_is_that_of_the_dense_product() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [
        pair(f"m{n}", conditioned(r, 20, 2.0, generator), 0.3 * conditioned(30, r, 40.0, generator))
        for n, r in enumerate((4, 8, 4))
    ]
    found = pair_health(pairs, 0.05)
    assert set(found) == {"m0", "m1", "m2"}
    for own in pairs:
        A, B = own.A.detach().double(), own.B.detach().double()
        sigma = torch.linalg.svdvals(B @ A)[: own.rank]
        shares = sigma / sigma.sum()
        expected = {
            "norm_A": A.norm(),
            "norm_B": B.norm(),
            "ratio": B.norm() / A.norm(),
            "condition": sigma[0] / sigma[-1],
            "effective_rank": (-(shares * shares.log()).sum()).exp(),
            "damped": (sigma < 0.05 * sigma[0]).double().mean(),
        }
        assert found[own.name] == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-3)


def test_an_untrained_adapter_is_json_too() -> None:
    found = pair_health([pair("m", torch.randn(3, 8), torch.zeros(5, 3))], 1e-3)["m"]
    assert (found["norm_B"], found["ratio"], found["effective_rank"]) == (0, 0, 0)
    assert found["condition"] is None
    assert not [value for value in found.values() if value is not None and not math.isfinite(value)]


def test_a_product_of_lower_rank_has_no_condition() -> None:
    generator = torch.Generator().manual_seed(0)
    B = conditioned(30, 4, 3.0, generator)
    B[:, 3] = B[:, 0] + B[:, 1]
    found = pair_health([pair("m", conditioned(4, 20, 2.0, generator), B)], 1e-3)["m"]
    assert found["condition"] is None
    assert found["damped"] == 0.25


def test_nothing_is_damped_by_a_method_without_damping() -> None:
    own = pair("m", torch.randn(3, 8), torch.randn(5, 3))
    assert pair_health([own], 1e-3)["m"].keys() - pair_health([own], None)["m"].keys() == {"damped"}


def test_unreached_modules_are_those_without_any_gradient() -> None:
    pairs = [pair(f"m{n}", torch.ones(2, 3), torch.ones(4, 2)) for n in range(4)]
    pairs[0].A.grad, pairs[0].B.grad = torch.zeros(2, 3), torch.ones(4, 2)  # B was zero: as at every first step
    pairs[1].A.grad, pairs[1].B.grad = torch.zeros(2, 3), torch.zeros(4, 2)
    pairs[3].A.grad = torch.full((2, 3), torch.nan)
    modules = {own.name: [own.A, own.B] for own in pairs}
    single = nn.Parameter(torch.zeros(5))
    assert unreached({**modules, "a vector": [single]}) == ["m1", "m2", "a vector"]
    single.grad = torch.ones(5)
    assert unreached({**modules, "a vector": [single]}) == ["m1", "m2"]
