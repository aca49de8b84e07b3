"""Truncation is the best of its rank, for factors and dense matrices alike, hard ones included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reflora_cli.combining.changes import Change, Dense, LowRank
from reflora_cli.combining.truncated import truncated

SHAPE = (40, 64)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


CHANGES: dict[str, Change] = {
    "factors": LowRank(drawn(40, 12), drawn(12, 64, seed=1)),
    "more ranks than rows": LowRank(drawn(40, 90), drawn(90, 64, seed=1)),
    "dense": Dense(drawn(*SHAPE)),
    "tall": Dense(drawn(64, 40)),
    "low rank, dense": Dense(drawn(40, 2) @ drawn(2, 64, seed=1)),
    "graded": Dense(
        drawn(40, 40) @ torch.diag(torch.logspace(0, -12, 40, dtype=torch.float64)) @ drawn(40, 64, seed=1)
    ),
    "equal values": Dense(torch.linalg.qr(drawn(64, 40))[0].mT.contiguous()),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("rank", [1, 3, 8, 33, 200])
def test_nothing_of_this_rank_is_closer(name: str, rank: int) -> None:
    change = CHANGES[name]
    whole = change.dense()
    values = torch.linalg.svdvals(whole)
    least, found = float(values[rank:].square().sum()), truncated(change, rank)
    assert found.change.rank <= rank
    error = float((whole - found.change.dense()).square().sum())
    size = float(values.square().sum())
    assert error == pytest.approx(least, abs=1e-13 * size)
    assert found.lost == pytest.approx(least, abs=1e-12 * size)
    assert found.whole == pytest.approx(size)


@pytest.mark.parametrize(
    "change", [Dense(torch.zeros(*SHAPE).double()), LowRank(drawn(40, 2), torch.zeros(2, 64).double())]
)
def test_no_change_stays_none(change: Change) -> None:
    found = truncated(change, 3)
    assert not found.change.dense().any()
    assert (found.lost, found.whole) == (0, 0)
