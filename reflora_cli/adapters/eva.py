"""EVA: A starts at the principal directions of a layer's inputs, and layers whose inputs these explain best get more
ranks.

Paischer et al. 2024, arXiv 2410.07170; PEFT has it too. With the inputs X [n, in] of a layer at the places that count,
and m their mean,

    X - m = U diag(S) V^T        A = the first r rows of V^T [r, in]        B = 0        share_i = S_i^2 / sum_j S_j^2

so that A A^T = I. Under the budget that equal ranks would have, sum_l r, the directions of all layers with the largest
shares are taken, at most rho r of one layer and never more than min(out, in); s stays what it is. Whitening divides
row i of A by sqrt(S_i).

The inputs come batch by batch. V and S are kept for the first k = rho r directions, and a batch X_b of mean m_b and n_b
rows is taken in by the SVD of the rows (Ross et al. 2008, with the sum of squares kept exactly beside it)

    [diag(S) V^T;  X_b - m_b;  sqrt(n n_b / (n + n_b)) (m - m_b)]

A layer is settled when all of its directions that have a rank turn by less than arccos(tau) with a batch. The SVD is a
randomized one (Halko et al. 2011) with 2k columns and four power iterations, exact for inputs of up to 2k features.

We differ from PEFT where a batch has fewer than k rows, which PEFT leaves out; where rho r exceeds out; where the
scaling is rslora, under which PEFT lets s fall with the rank; and in that the number of rows is limited, so that inputs
that never settle end the search.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.adapters.sight import Pass, Sharing, Sight, nothing_to_see, watch
from reflora_cli.methods.starts import EvaStart

POWER_ITERATIONS = 4
SEED = 42
"""The seed of the random columns from which each SVD begins, the same for all: only inputs decide."""


def explained(layers: Mapping[str, LowRankLayer], choice: EvaStart, sight: Sight) -> dict[str, Tensor]:
    """Return A [r, in] by layer, with a rank of its own for each, possibly 0. A layer that was never called has none.

    Raises InputError if there are no training rows.
    """
    search, rows = Search(layers, choice), 0
    sight.tell(f"before the first step, eva looks at up to {choice.rows:,} training rows")
    for number, one in enumerate(sight.passes, start=1):
        search.look(one)
        rows += one.rows
        left, is_over = len(search.unsettled()), rows >= choice.rows
        if not left or is_over or number & (number - 1) == 0:  # after 1, 2, 4, 8 ... passes
            sight.tell(
                f"eva: {rows:,} rows, {len(search.found) - left} of {len(search.found)} kinds of inputs converged"
            )
        if not left or is_over:
            return search.bases()
    raise nothing_to_see(choice.kind)


@final
class Search:
    """The principal directions of all layers' inputs, while passes go by.

    sharing: which layers share an input. found: the directions by leader. ranks: by layer, as they would be now; for
    layers that were called.
    """

    def __init__(self, layers: Mapping[str, LowRankLayer], choice: EvaStart) -> None:
        self.layers, self.choice = layers, choice
        self.sharing = Sharing()
        self.found: dict[str, Directions] = {}
        self.ranks: dict[str, int] = {}

    def look(self, one: Pass) -> None:
        """Take in the inputs of layers that are not settled, and of those that are called for the first time."""

        def see(name: str, x: Tensor) -> None:
            if len(x) and self.sharing.leads(name, x):  # an expert to which no token was sent has no rows
                self.found.setdefault(name, Directions(self.most(name), self.choice.tau)).add(x)

        awaited = {*self.unsettled(), *(self.layers.keys() - self.sharing.leader.keys())}
        watch({name: layer for name, layer in self.layers.items() if name in awaited}, one, see)
        self.ranks = self.shared_out()

    def most(self, name: str) -> int:
        """Return the number of directions that are looked for in a layer's inputs."""
        layer = self.layers[name]
        return min(round(self.choice.rho * layer.rank), layer.frozen.in_features)

    def shared_out(self) -> dict[str, int]:
        """Return the ranks by layer: the directions with the largest shares have one each; of equals the first."""
        called = {name: layer for name, layer in self.layers.items() if name in self.sharing.leader}
        budget = sum(layer.rank for layer in called.values())
        shares = {leader: own.shares.tolist() for leader, own in self.found.items()}
        directions = [
            (share, name)
            for name, layer in called.items()
            for share in shares[self.sharing.leader[name]][: min(self.most(name), layer.frozen.out_features)]
        ]
        largest = sorted(directions, key=lambda one: -one[0])[:budget]
        return {**dict.fromkeys(called, 0), **Counter(name for _, name in largest)}

    def unsettled(self) -> list[str]:
        """Return the leaders of which a direction that has a rank has not settled yet."""
        needed = dict.fromkeys(self.found, 0)
        for name, rank in self.ranks.items():
            needed[self.sharing.leader[name]] = max(needed[self.sharing.leader[name]], rank)
        return [name for name, own in self.found.items() if not own.settled[: needed[name]].all()]

    def bases(self) -> dict[str, Tensor]:
        """Return A [r, in] of the layers that were called."""
        return {
            name: self.found[self.sharing.leader[name]].basis(rank, self.choice) for name, rank in self.ranks.items()
        }


@final
class Directions:
    """The principal directions of rows that come batch by batch.

    V: [k, in] and S: [k], float32 or that of float64 rows, largest first. mean: [in] and squares, the sum of squared
    distances from it, float64. settled: bool [k], whether each direction hardly turned with the last batch.
    """

    def __init__(self, count: int, tau: float) -> None:
        self.count, self.tau = count, tau
        self.seen = 0

    def add(self, x: Tensor) -> None:
        """Take in rows [n, in], at least one."""
        n = x.shape[0]
        mean = x.mean(dim=0, dtype=torch.float64)
        dtype = torch.promote_types(x.dtype, torch.float32)
        apart = x.to(dtype) - mean.to(dtype)
        squares = apart.square().sum(dtype=torch.float64)
        if not self.seen:
            self.S, self.V = leading(apart, self.count)
            self.mean, self.squares = mean, squares
            self.settled = torch.zeros_like(self.S, dtype=torch.bool)
        else:
            shift, weight = self.mean - mean, self.seen * n / (self.seen + n)
            rows = [self.S[:, None] * self.V, apart, (weight**0.5 * shift).to(dtype)[None]]
            before = self.V
            self.S, self.V = leading(torch.cat(rows), self.count)
            self.mean = mean + shift * (self.seen / (self.seen + n))
            self.squares = self.squares + squares + weight * shift.square().sum()
            self.settled = torch.zeros_like(self.S, dtype=torch.bool)
            both = min(len(before), len(self.V))
            self.settled[:both] = (before[:both] * self.V[:both]).sum(dim=1) >= self.tau
        self.seen += n

    @property
    def shares(self) -> Tensor:
        """The share of each direction in the sum of squares [k], float64; 0 for inputs that are all the same."""
        return self.S.double().square() / self.squares.clamp_min(torch.finfo(torch.float64).tiny)

    def basis(self, rank: int, choice: EvaStart) -> Tensor:
        """Return A [rank, in]."""
        V = self.V[:rank]
        return V / self.S[:rank, None].sqrt() if choice.whiten else V


def leading(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest singular values S [k] of rows [m, in] and their right singular vectors V [k, in].

    k is `count`, or less where there are fewer rows. The largest entry of each vector is positive.
    """
    width = min(2 * count, *rows.shape)
    draw = torch.Generator().manual_seed(SEED)
    Q = orthonormal(rows @ torch.randn(rows.shape[1], width, dtype=rows.dtype, generator=draw).to(rows))
    for _ in range(POWER_ITERATIONS):
        Q = orthonormal(rows @ orthonormal(rows.T @ Q))
    _, S, V = torch.linalg.svd(Q.T @ rows, full_matrices=False)
    S, V = S[:count], V[:count]
    return S, V * V.gather(1, V.abs().argmax(dim=1, keepdim=True)).sign()


def orthonormal(columns: Tensor) -> Tensor:
    """Return orthonormal columns that span those of [m, k], k at most m."""
    Q: Tensor = torch.linalg.qr(columns).Q
    return Q
