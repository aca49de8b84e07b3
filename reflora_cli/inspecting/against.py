"""A change against the weight that it changes: by rows, and by the subspaces of both.

Magnitude and direction change: Liu et al. 2024, arXiv 2402.09353, section 3.2, with one magnitude for each output
neuron, a row of W [out, in], as in the authors' code; the paper's text says columns. Amplification factor and subspace
similarity: Hu et al. 2021, arXiv 2106.09685, sections 7.2 and 7.3.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reflora_cli.inspecting.effects import Effect
from reflora_cli.inspecting.spectra import Triplets
from reflora_cli.inspecting.subspaces import similarity

BLOCK = 2**21
"""The number of elements of a weight that are in float64 at a time: 16 MiB."""
WHOLE_UP_TO = 256
"""The least side of a weight up to which it is decomposed as a whole."""
WHOLE_FROM = 4
"""And where more than 1/4 of its triplets are asked for, it is decomposed as a whole too."""
OVERSAMPLED, ITERATIONS = 10, 8
"""How many more vectors the subspace iteration has than are asked for, and how often W^T W is applied to them."""


@dataclass(frozen=True)
class RowChange:
    """The exact change of a weight, found row by row.

    frobenius: ||W' - W||_F for the adapted weight W'. weight: ||W||_F. magnitude: the mean of | ||w'_j|| - ||w_j|| |
    over rows. relative_magnitude: that over the mean of ||w_j||; None for W = 0. direction: the mean of
    1 - cos(w'_j, w_j) over the rows that are not zero; None where all are.
    """

    frobenius: float
    weight: float
    magnitude: float
    relative_magnitude: float | None
    direction: float | None


@dataclass(frozen=True)
class AgainstWeight:
    """The part of low rank, dW = U S V^T of rank k, against W.

    spectral: ||W||_2. amplification: ||dW||_F / ||U^T W V||_F; None where W vanishes there. columns, rows: phi between
    the column spaces, and the row spaces, of dW and of the k leading singular triplets of W. random_*: what they
    are on average for random subspaces, k/out and k/in. whole: whether W was decomposed as a whole, or by a randomized
    subspace iteration, from which its spectral norm and its subspaces are estimates.
    """

    spectral: float
    amplification: float | None
    columns: float
    rows: float
    random_columns: float
    random_rows: float
    whole: bool


def row_change(W: Tensor, effect: Effect) -> RowChange:
    """Return what an effect changes of W [out, in], float32, in float64 and a few rows at a time."""
    squares, shifts, norms, directions, seen = 0.0, 0.0, 0.0, 0.0, 0
    weight = 0.0
    step = max(1, BLOCK // W.shape[1])
    for begin in range(0, W.shape[0], step):
        at = slice(begin, min(begin + step, W.shape[0]))
        rows = W[at].double()
        changed = effect.changed(rows, at)
        before, after = (torch.linalg.vector_norm(own, dim=1) for own in (rows, changed))
        there = (before > 0) & (after > 0)
        cosines = (rows * changed).sum(dim=1)[there] / (before * after)[there]
        squares += float((changed - rows).square().sum())
        weight += float(before.square().sum())
        shifts, norms = shifts + float((after - before).abs().sum()), norms + float(before.sum())
        directions, seen = directions + float((1 - cosines).clamp_min(0).sum()), seen + int(there.sum())
    return RowChange(
        frobenius=squares**0.5,
        weight=weight**0.5,
        magnitude=shifts / W.shape[0],
        relative_magnitude=shifts / norms if norms else None,
        direction=directions / seen if seen else None,
    )


def against_weight(W: Tensor, change: Triplets) -> AgainstWeight | None:
    """Return how a change lies to W [out, in], float32; None for a change of rank 0."""
    k = change.rank
    if not k:
        return None
    own, whole = leading(W, k)
    step = max(1, BLOCK // W.shape[1])
    blocks = zip(torch.split(change.U, step), torch.split(W, step), strict=True)
    seen = float(torch.stack([U.mT @ (rows.double() @ change.V) for U, rows in blocks]).sum(dim=0).norm())
    noise = float(own.S[0]) * torch.finfo(torch.float64).eps * max(W.shape)
    return AgainstWeight(
        spectral=float(own.S[0]),
        amplification=float(change.S.norm()) / seen if seen > noise else None,
        columns=similarity(own.U, change.U),
        rows=similarity(own.V, change.V),
        random_columns=k / W.shape[0],
        random_rows=k / W.shape[1],
        whole=whole,
    )


def leading(W: Tensor, k: int) -> tuple[Triplets, bool]:
    """Return the k leading singular triplets of W [out, in], float32, and whether it was decomposed as a whole.

    A large W is not: its leading triplets come from a randomized subspace iteration in float32 (Halko, Martinsson,
    Tropp 2011, arXiv 0909.4061), from a start that is always the same.
    """
    least = min(W.shape)
    if least <= WHOLE_UP_TO or k * WHOLE_FROM >= least:
        U, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
        return Triplets(U[:, :k], S[:k], Vh[:k].mT), True
    draw = torch.Generator().manual_seed(0)
    V = torch.randn(W.shape[1], k + OVERSAMPLED, generator=draw)
    for _ in range(ITERATIONS):
        V = torch.linalg.qr(W.mT @ torch.linalg.qr(W @ V)[0])[0]
    Q, core = torch.linalg.qr((W @ V).double())
    U, S, Vh = torch.linalg.svd(core)
    return Triplets((Q @ U)[:, :k], S[:k], (V.double() @ Vh.mT)[:, :k]), False
