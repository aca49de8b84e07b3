"""Steps of orthonormal frames that stay orthonormal, around any optimizer (Li et al. 2025, StelLA, arXiv 2510.01938).

A frame X [m, r] has X^T X = I: it is a point of a Stiefel manifold. A parameter that is wide has orthonormal rows, and
X is its transpose. With G [m, r] the gradient, and sym(M) = (M + M^T) / 2,

    G <- G - X G^T X                            before the step: the Riemannian gradient
    D  = (X_stepped - X) sqrt(width / m)        after it: what the optimizer has added, in equal proportion for all m
    D <- D - X sym(X^T D)                       its part that is tangent to the manifold at X
    X <- R(X, D)                                back to the manifold

For tangent D, polar retraction is R = (X + D) (I + D^T D)^-1/2, the frame that is nearest to X + D. The other choice is
the geodesic of the canonical metric from X along D, with D - X X^T D = Q K (thin QR):

    R = [X, Q] exp([[X^T D, -K^T], [K, 0]]) [I, 0]^T

An entry of a frame is about 1 / sqrt(m), while AdamW steps are alike for all m; sqrt(width / m) makes relative changes
alike instead, and leaves the rate what it is for frames as high as the model's hidden states are wide.

Moments are not transported from one tangent space to the next, as in the authors' code (SonyResearch/stella). Where we
differ: I + D^T D is taken from X + D as it is, in float64, and its inverse root is found by products, for all frames
together, instead of a singular value decomposition of each X + D; what rounding does to X does not add up, also not
along geodesics, whose ends are made orthonormal too. Frames without a gradient stay as they are in both.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.factors.newton_schulz import damped_inverse_root
from reflora_cli.optim.rule import StatelessRule
from reflora_cli.optim.stacks import factoring_device, has_float64, mapped

DAMPING = 1e-4
"""The least damping of an inverse root: it shortens frames by a share of 5e-9, below float32's precision."""
Retraction = Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]
"""A function from frames X and tangent steps D, [m, r] of one rank on one device, to the new frames."""


class StiefelRule(StatelessRule):
    """Acts in every step, and remembers nothing from one to the next.

    frames: matrices with orthonormal columns, or rows if they are wide. width: the height of frames that step by the
    learning rate itself; None: all do.
    """

    def __init__(self, frames: Sequence[nn.Parameter], width: float | None, retract: Retraction) -> None:
        self._frames, self._width, self._retract = tuple(frames), width, retract
        self._stepping: list[tuple[list[nn.Parameter], list[Tensor]]] = []

    @torch.no_grad()
    def before_step(self) -> None:
        self._stepping = []
        for frames in alike([own for own in self._frames if own.grad is not None]):
            gradients = [own.grad for own in frames if own.grad is not None]
            found = mapped(riemannian, upright(frames), upright(gradients))
            torch._foreach_copy_(gradients, as_stored(found, frames))
            before = [torch.empty_like(own) for own in frames]
            torch._foreach_copy_(before, list(frames))
            self._stepping.append((frames, before))

    @torch.no_grad()
    def after_step(self, state: Mapping[Tensor, Any]) -> None:
        for frames, before in self._stepping:
            X = upright(before)
            found = self._retract(X, mapped(self._tangent_step, X, upright(frames)))
            torch._foreach_copy_(list(frames), as_stored(found, frames))
        self._stepping = []

    def _tangent_step(self, X: Tensor, stepped: Tensor) -> Tensor:
        """Return D [..., m, r] for frames before and after the optimizer's step."""
        scale = 1.0 if self._width is None else math.sqrt(self._width / X.shape[-2])
        D = (stepped - X) * scale
        inner = X.mT @ D
        return D - X @ ((inner + inner.mT) / 2)


def riemannian(X: Tensor, G: Tensor) -> Tensor:
    """Return G - X G^T X [..., m, r]."""
    return G - X @ (G.mT @ X)


def by_polar(X: Sequence[Tensor], D: Sequence[Tensor]) -> list[Tensor]:
    """Return the frames that are nearest to X + D."""
    return orthonormalized(mapped(torch.add, X, D))


def by_geodesic(X: Sequence[Tensor], D: Sequence[Tensor]) -> list[Tensor]:
    """Return where the geodesics from X along D end."""
    return orthonormalized(mapped(geodesic_end, X, D))


def geodesic_end(X: Tensor, D: Tensor) -> Tensor:
    """Return the end of the geodesic from X along a tangent D, [..., m, r]."""
    inner = X.mT @ D
    Q, K = torch.linalg.qr(D - X @ inner)
    above = torch.cat([inner, -K.mT], dim=-1)
    below = torch.cat([K, torch.zeros_like(K)], dim=-1)
    turned = torch.linalg.matrix_exp(torch.cat([above, below], dim=-2))[..., : X.shape[-1]]
    end: Tensor = torch.cat([X, Q], dim=-1) @ turned
    return end


def orthonormalized(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return Y (Y^T Y)^-1/2 for matrices Y [m, r] whose singular values are about 1 or larger."""
    place = factoring_device(matrices[0].device)
    grams = torch.stack([own.to(place).double() for own in mapped(gram, matrices)])
    return mapped(torch.matmul, matrices, damped_inverse_root(grams, DAMPING).to(matrices[0]))


def gram(Y: Tensor) -> Tensor:
    """Return Y^T Y [..., r, r], float64 where the device has it."""
    wide = Y.double() if has_float64(Y.device) else Y
    return wide.mT @ wide


def alike(frames: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Return the frames by rank and device."""
    kinds: dict[tuple[int, torch.device], list[nn.Parameter]] = {}
    for own in frames:
        kinds.setdefault((min(own.shape), own.device), []).append(own)
    return list(kinds.values())


def upright(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Return matrices [m, r] with m >= r: those that are wide transposed, on the same memory."""
    return [own.detach() if own.shape[0] >= own.shape[1] else own.detach().mT for own in matrices]


def as_stored(matrices: Sequence[Tensor], frames: Sequence[Tensor]) -> list[Tensor]:
    """Return upright matrices in the shapes of these frames."""
    return [own if frame.shape == own.shape else own.mT for own, frame in zip(matrices, frames, strict=True)]


def commonest_height(frames: Sequence[Tensor]) -> int | None:
    """Return the m that most frames have, the least of several; None without frames."""
    counts = Counter(max(own.shape) for own in frames)
    return max(counts, key=lambda m: (counts[m], -m)) if counts else None
