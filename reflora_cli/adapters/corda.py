"""CorDA: a pair that begins as the part of W that matters most, or least, for the inputs that the module has.

Yang et al. 2024, arXiv 2406.05223. With the inputs x [in] of a module at the places that count,

    C = E[x x^T] + 0.01 mean(diag E[x x^T]) I     [in, in]
    W C = U diag(sigma) V^T                       sigma in descending order
    B = U_k diag(sigma_k / s)^1/2                 [out, r]
    A = diag(sigma_k / s)^1/2 V_k^T C^-1          [r, in]

and the frozen weight is W - s B A. The triplets k are the first r if an instruction is previewed (ipm): what the seen
inputs use most is trained, and (W - s B A) C is as small as a change of rank r can make it. They are the last r if
knowledge is to be preserved (kpm): W keeps all that the seen inputs use most, and the rest is trained. Everything is
float64, C is symmetric and positive definite, and modules with one input share it. The pair is not balanced: c C in the
place of C multiplies B by c^1/2 and divides A by it.

The authors' code, and PEFT's, divide each batch by the size of its largest entry (which is not its entry of the largest
size) before it is squared, so that batches weigh differently and C depends on how rows are batched; we do not. They
double the damping of 0.01 until float32 finds an inverse, which float64 does at once: C's condition is at most 100 in.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.adapters.pissa import balanced_pair
from reflora_cli.adapters.sight import Sharing, Sight, first_passes, watch
from reflora_cli.methods.starts import CorDAStart

DAMPING = 0.01
"""The share of the mean of C's diagonal that is added to it."""


def covariances(layers: Mapping[str, LowRankLayer], choice: CorDAStart, sight: Sight) -> dict[str, Tensor]:
    """Return C [in, in] without damping by layer, float64 on the CPU and one tensor for layers that share an input.

    A layer that was never called, or with zeros only, has none. Memory: 8 in^2 bytes for each kind of input. Raises
    InputError if there are no training rows.
    """
    sharing, sums, counts = Sharing(), dict[str, Tensor](), dict[str, int]()

    def see(name: str, x: Tensor) -> None:
        if len(x) and sharing.leads(name, x):  # an expert to which no token was sent has no rows
            wide = x.double()
            product = (wide.T @ wide).cpu()
            sums[name] = sums[name].add_(product) if name in sums else product
            counts[name] = counts.get(name, 0) + len(x)

    for one in first_passes(sight, choice.kind, choice.rows):
        watch(layers, one, see)
    found = {leader: own.div_(counts[leader]) for leader, own in sums.items()}
    return {name: found[leader] for name, leader in sharing.leader.items() if found[leader].any()}


@torch.no_grad()
def oriented_pair(W: Tensor, C: Tensor, rank: int, scale: float, choice: CorDAStart) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and B [out, r], float32.

    W: [out, in], float32. C: [in, in], without damping. rank: at most min(out, in).
    """
    damped = C.to(W.device, torch.float64, copy=True)
    damped.diagonal().add_(DAMPING * damped.diagonal().mean())
    U, sigma, V = torch.linalg.svd(W.double() @ damped, full_matrices=False)
    own = slice(0, rank) if choice.mode == "ipm" else slice(len(sigma) - rank, None)
    A, B = balanced_pair(U[:, own], sigma[own], V[own], scale)
    return torch.cholesky_solve(A.T, torch.linalg.cholesky(damped)).T.float(), B.float()
