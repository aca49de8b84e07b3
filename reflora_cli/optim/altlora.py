"""AltLoRA: A and B stepped in turn, each as closely to the weight's gradient as it can (Yu et al. 2025, arXiv
2505.12455).

With one factor fixed, the step of the other that moves the weight most nearly along its gradient G is unique, and no
compensating terms are needed as in LoRA-Pro. With s the pair's scale, gA = s B^T G [r, in] and gB = s G A^T [out, r],

    uA = s^-2 (B^T B)^-1 gA        uB = s^-2 gB (A A^T)^-1

are these steps: s B uA = P_B G and s uB A = G P_A. A pair steps B first, where A could not move while B = 0, then A,
and so on; each factor has every second step, and half of all gradients have no use. The first moment stands for a
moment of the weight, s B M. When it was B' that it was taken with, its best form with the present B is

    M <- b1 (B^T B)^-1 B^T B' M + (1 - b1) uA        of A, and
    M <- b1 M A' A^T (A A^T)^-1 + (1 - b1) uB        of B

Without second moments, AltLoRA: A <- A - eta M / (1 - b1^t), t the steps of A. BA then moves alike from all of its
factorizations, damping and decay included, at rates of gradient descent on the weight. With them, AltLoRA+:

    V <- b2 V + (1 - b2) uA * uA        A <- A - eta (M / (1 - b1^t)) / (sqrt(V / (1 - b2^t)) + eps)

where * multiplies entry by entry, as AdamW does, at rates like AdamW's; entries depend on the factorization.

Where we differ from the authors' code (LucasXinYu/AltLoRA, `optimizer_new.py`):

* theirs steps both factors in every step, B with the A that has just moved and the gradient from before it; here they
  alternate, as in the paper;
* it leaves out s^-2, so that rates depend on alpha;
* its AltLoRA+ steps along the turned moment and keeps it as it was before turning, so that moments of different B are
  added up; and it does not correct the bias of V;
* inverses are damped relative to BA and in A's step alone (`factors/frames.py`), where theirs adds 1e-3 to the diagonal
  of both, which depends on the factorization, and at times takes the identity;
* its decays default to 0.999 and 0.98, ours to AdamW's 0.9 and 0.999.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reflora_cli.factors.frames import frames_of
from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.pair_adamw import MOMENTS
from reflora_cli.optim.pair_member import PairMember, Settings
from reflora_cli.optim.stacks import PairGroup, mapped

FIRST, SECOND = MOMENTS
OTHER = "other"
"""The other factor as it was when a factor last stepped."""


class Moments(Protocol):
    """What is remembered of a factor in its shape, the first moment and perhaps more, and the step made of it.

    names: the keys in the optimizer's state.
    """

    @property
    def names(self) -> Sequence[str]: ...

    def direction(self, state: dict[str, Any], u: Tensor, setting: dict[str, Any]) -> Tensor:
        """Return the step, after the first moment and the number of steps have been advanced, and advance the rest.

        u: the factor's latest uA or uB. setting: the factor's parameter group.
        """


class FirstMoment:
    """The moment of AltLoRA: the step is M with its bias corrected."""

    names = (FIRST,)

    def direction(self, state: dict[str, Any], u: Tensor, setting: dict[str, Any]) -> Tensor:
        step: Tensor = state[FIRST] / (1 - setting["betas"][0] ** state["step"])
        return step


class BothMoments:
    """The moments of AltLoRA+: the step is divided by the size of its entries, as AdamW's."""

    names = (FIRST, SECOND)

    def direction(self, state: dict[str, Any], u: Tensor, setting: dict[str, Any]) -> Tensor:
        (b1, b2), t = setting["betas"], state["step"]
        second = state[SECOND].mul_(b2).addcmul_(u, u, value=1 - b2)
        step: Tensor = (state[FIRST] / (1 - b1**t)) / ((second / (1 - b2**t)).sqrt_() + setting["eps"])
        return step


AsRows = Callable[[Tensor], Tensor]
"""Shows a factor, or what has its shape, as rows [r, n]: the identity for A [r, in], the transpose for B [out, r]."""


def itself(tensor: Tensor) -> Tensor:
    """Return the tensor."""
    return tensor


def transposed(tensor: Tensor) -> Tensor:
    """Return the transpose."""
    return tensor.mT


@dataclass(frozen=True)
class Turn:
    """The factors of n pairs that step, all of them A or all of them B.

    inverses: the damped inverse Grams of the other factors, float64 [n, r, r].
    """

    factors: Sequence[nn.Parameter]
    others: Sequence[nn.Parameter]
    scales: Sequence[float]
    inverses: Tensor
    as_rows: AsRows
    others_as_rows: AsRows

    def steps(self) -> list[Tensor]:
        """Return uA or uB of the gradients at hand, in the factors' shapes."""
        gradients = [self.as_rows(_wide(own.grad)) for own in self.factors if own.grad is not None]
        squares = torch.tensor(self.scales, dtype=torch.float64, device=self.inverses.device).square()
        solved = mapped(lambda M, g: M @ g, self._large(self.inverses / squares[:, None, None]), gradients)
        return [self.as_rows(own) for own in solved]

    def turned(self, moments: Sequence[Tensor], before: Sequence[Tensor]) -> list[Tensor]:
        """Return the moments of the weight that these were, as they are with the others of now. before: the others
        with which they were taken."""
        own = [self.as_rows(moment) for moment in moments]
        now = [self.others_as_rows(_wide(other)) for other in self.others]
        then = [self.others_as_rows(other) for other in before]
        found = mapped(lambda M, Y, Z, m: M @ (Y @ Z.mT) @ m, self._large(self.inverses), now, then, own)
        return [self.as_rows(moment) for moment in found]

    def _large(self, matrices: Tensor) -> Tensor:
        """Return r x r matrices as products with factors need them."""
        return matrices.to(self.factors[0].device, _wide(self.factors[0]).dtype)


class AltLoRAMember(PairMember):
    """Steps pairs of factors by AltLoRA. damping: see `Frames`.

    Where a factor of a pair has no gradient, the turn is still its own. A pair whose factors are both numerically
    singular only decays.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        pairs: Sequence[FactorPair],
        damping: float,
        moments: Moments,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, pairs, {"betas": betas, "eps": eps})
        self._damping, self._moments = damping, moments

    def step_pairs(self, group: PairGroup, settings: Settings) -> None:
        """Step one factor of every pair."""
        frames = frames_of(*group.grams(torch.float64), self._damping)
        turns_a = [n for n, pair in enumerate(group.pairs) if self._steps(pair.A) < self._steps(pair.B)]
        turns_b = [n for n in range(len(group.pairs)) if n not in set(turns_a)]
        if pairs := [group.pairs[n] for n in turns_a]:
            A, B, scales = [own.A for own in pairs], [own.B for own in pairs], [own.scale for own in pairs]
            self._advance(Turn(A, B, scales, (frames.for_a @ frames.for_a.mT)[turns_a], itself, transposed), settings)
        if pairs := [group.pairs[n] for n in turns_b]:
            A, B, scales = [own.A for own in pairs], [own.B for own in pairs], [own.scale for own in pairs]
            self._advance(Turn(B, A, scales, (frames.for_b @ frames.for_b.mT)[turns_b], transposed, itself), settings)

    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return what is remembered of a factor, at zero: moments in its shape, and `other` in that of the other."""
        other = next(own for pair in self._pairs for own, factor in _both_ways(pair) if factor is parameter)
        moments = {name: torch.zeros_like(_wide(parameter)) for name in self._moments.names}
        return {**moments, OTHER: torch.zeros_like(_wide(other))}

    def _steps(self, factor: nn.Parameter) -> int:
        return int(self.state[factor]["step"]) if self.state[factor] else 0

    def _advance(self, turn: Turn, settings: Settings) -> None:
        """Advance the moments of the factors whose turn it is, let them decay and step, each at its group's rate."""
        states = [self.begun(factor) for factor in turn.factors]
        turned = turn.turned([state[FIRST] for state in states], [state[OTHER] for state in states])
        for factor, other, state, kept, u in zip(turn.factors, turn.others, states, turned, turn.steps(), strict=True):
            setting = settings[factor]
            state[FIRST].copy_(kept).lerp_(u, 1 - setting["betas"][0])
            state[OTHER].copy_(other)
            state["step"] += 1
            direction = self._moments.direction(state, u, setting)
            factor.mul_(1 - setting["lr"] * setting["weight_decay"])
            factor.add_(direction.to(factor.dtype), alpha=-setting["lr"])


def _both_ways(pair: FactorPair) -> tuple[tuple[nn.Parameter, nn.Parameter], tuple[nn.Parameter, nn.Parameter]]:
    return (pair.B, pair.A), (pair.A, pair.B)


def _wide(tensor: Tensor) -> Tensor:
    """Return the tensor in its own precision, or in float32 if that is a half one."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
