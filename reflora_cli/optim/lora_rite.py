"""LoRA-RITE: an optimizer of pairs whose steps do not depend on how BA is factored (Yen et al. 2024, arXiv 2410.20625).

Adam divides every entry of a factor's gradient by that entry's size, and both depend on the factorization: (A, B) and
(T^-1 A, B T) are one update BA, and go different ways. LoRA-RITE takes its moments in orthonormal frames
Phi_B [out, r] of B's columns and Phi_A [in, r] of A's rows, which belong to BA alone. Of A, with the gradient
u = s Phi_B^T G [r, in] in the frame, G that of the weight, and what is remembered turned into the present frame by
P = Phi_B(t)^T Phi_B(t-1) [r, r]:

    V <- b2 P V P^T + (1 - b2) u u^T / in          the second moment, of r x r instead of r x in numbers
    rho <- b2 (rho + d(V, P V P^T))                what V has lost by turning
    D = (V + rho I)^-1/2 u                         rows of D have entries of size 1
    M <- b1 P M + (1 - b1) D                       the first moment, of normalized gradients
    A <- (1 - eta lambda) A - eta R M              where B R = Phi_B, so that BA moves by -eta Phi_B M

B goes likewise, with the roles of A and B exchanged. d is by how much an eigenvalue fell at most; b1 and b2 stand for
decays with bias correction, b (1 - b^t) / (1 - b^(t+1)) in step t = 0, 1, ... (Shazeer and Stern 2018, arXiv
1804.04235, section 7.1); lambda is decoupled weight decay, which does not see the factorization either.

Where we differ from the paper and from its PyTorch code (gkevinyen5418/LoRA-RITE):

* Where BA has a rank below r, R = RB^-1 does not exist, and the code's pseudo-inverse learns nothing there. Here A's R
  is damped relative to BA's largest singular value and B's is not, as `factors/frames.py` says and explains. There is
  no warm-up: at B = 0 A waits for the first step of B. Damping both factors was worse (and stays at B = 0 for ever).
* V is damped relative to its own largest eigenvalue, by the same share, instead of by an absolute epsilon: steps do
  not depend on the scale of the loss.
* The escaped mass rho is kept, as in the paper; the code leaves it out by default.
* There is no clipping here. The code clips the gradients in the frames, of all modules together, at norm 1, and leaves
  one out whose root mean square is beyond 1; a constant factor has no effect on D. A training loop's own clipping
  multiplies all gradients of a step by one factor, as harmless as it is for Adam, but it takes that factor from the
  norm of the factors' gradients, which depends on the factorization: only without it the path of BA does not.
* In every step the factors are balanced (`Frames`), which changes neither BA nor its path, and keeps float32 factors
  of a BA of lower rank from drifting apart: without it A reached 1e8 and the product lost all of its digits.
* The state is saved whole: moments, frames and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.factors.frames import frames_of, inverse_root, spectral_loss
from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.pair_member import PairMember, Settings
from reflora_cli.optim.stacks import PairGroup, factoring_device, mapped


class LoRARITEMember(PairMember):
    """Steps pairs of factors by LoRA-RITE. damping: see `Frames`.

    A pair whose factors are both numerically singular only decays (see `Frames`); a rank larger than `in` or `out`
    would make them so.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        pairs: Sequence[FactorPair],
        damping: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__(groups, pairs, {"betas": betas})
        self._damping = damping

    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return what is remembered of a factor, at zero:

        exp_avg        M, as the factor
        frame          its orthonormal frame after the last step: Phi_A^T for A [r, in], Phi_B for B [out, r]
        second_moment  V [r, r]
        escaped        rho, a scalar
        """
        rank = next(pair.rank for pair in self._pairs if parameter is pair.A or parameter is pair.B)
        shapes = {
            "exp_avg": parameter.shape,
            "frame": parameter.shape,
            "second_moment": torch.Size((rank, rank)),
            "escaped": torch.Size(),
        }
        dtype, device = _precision(parameter), parameter.device
        return {key: torch.zeros(shape, dtype=dtype, device=device) for key, shape in shapes.items()}

    def step_pairs(self, group: PairGroup, settings: Settings) -> None:
        """Step both factors of all pairs, from gradients in the frames of the present factors."""
        pairs = group.pairs
        for pair in pairs:
            self.begun(pair.A)
            self.begun(pair.B)
        frames = frames_of(*group.grams(torch.float64), self._damping)
        a = Side([pair.A for pair in pairs], lambda own: own, self.state, settings)
        b = Side([pair.B for pair in pairs], lambda own: own.mT, self.state, settings)
        turned_a, turned_b = a.turn(frames.of_a), b.turn(frames.of_b)
        steps_a = a.advance(frames.for_a, turned_b, self._damping)
        steps_b = b.advance(frames.for_b, turned_a, self._damping)
        a.move(frames.balancing_a, frames.balancing_a @ frames.for_a, steps_a)
        b.move(frames.balancing_b, frames.balancing_b @ frames.for_b, steps_b)


class Side:
    """The same factor of N pairs, with its state.

    as_rows: shows a factor, or what is remembered in its shape, as rows [r, n], and rows as that: the identity for A
    [r, in], the transpose for B [out, r].
    """

    def __init__(
        self,
        factors: Sequence[nn.Parameter],
        as_rows: Callable[[Tensor], Tensor],
        state: dict[Tensor, dict[str, Any]],
        settings: Settings,
    ) -> None:
        self._factors, self._as_rows = factors, as_rows
        self._states = [state[factor] for factor in factors]
        self._settings = [settings[factor] for factor in factors]
        self._device, self._precision = factors[0].device, _precision(factors[0])
        self._place = factoring_device(self._device)

    def turn(self, of_rows: Tensor) -> Tensor:
        """Renew the frames, and return the turns Phi(t)^T Phi(t-1), float64 [N, r, r]; zero in the first step.

        of_rows: what makes frames of the rows, [N, r, r].
        """
        new = mapped(lambda of, rows: of.mT @ rows, self._large(of_rows), self._rows(self._factors))
        turns = torch.stack(mapped(lambda now, before: now @ before.mT, new, self._remembered("frame")))
        self._remember("frame", new)
        return turns.to(self._place).double()

    def advance(self, into_rows: Tensor, turns: Tensor, damping: float) -> list[Tensor]:
        """Advance the moments, and return the first ones, the steps in the other factors' frames, N of [r, n].

        into_rows: what takes steps in these frames to steps of the rows, [N, r, r]; turns: those of these frames.
        """
        decay_1, decay_2 = self._decays(0), self._decays(1)
        given = self._rows([factor.grad for factor in self._factors if factor.grad is not None])
        gradients = mapped(lambda into, rows: into.mT @ rows, self._large(into_rows), given)
        fresh = torch.stack(mapped(lambda u: u @ u.mT / u.shape[-1], gradients)).to(self._place).double()
        before = self._small("second_moment")
        kept = turns @ before @ turns.mT
        escaped = decay_2.flatten() * (self._small("escaped") + spectral_loss(before, kept))
        second = decay_2 * kept + (1 - decay_2) * fresh
        turning = self._large(decay_1 * turns)
        whitening = self._large((1 - decay_1) * inverse_root(second, escaped, damping))
        first = mapped(lambda P, m, D, u: P @ m + D @ u, turning, self._remembered("exp_avg"), whitening, gradients)
        self._remember("exp_avg", first)
        torch._foreach_copy_([state["second_moment"] for state in self._states], self._large(second).unbind())
        torch._foreach_copy_([state["escaped"] for state in self._states], self._large(escaped).unbind())
        for state in self._states:
            state["step"] += 1
        return first

    def move(self, balancing: Tensor, into_rows: Tensor, steps: list[Tensor]) -> None:
        """Let the rows decay, balance them and subtract the steps, each group at its own rate.

        balancing: what the rows are multiplied by, [N, r, r]; into_rows: what takes steps to balanced rows.
        """
        rates = [float(own["lr"]) for own in self._settings]
        decays = [1 - rate * own["weight_decay"] for rate, own in zip(rates, self._settings, strict=True)]
        kept = self._large(self._each(decays) * balancing)
        moved = self._large(self._each(rates) * into_rows)
        rows = mapped(lambda T, X, R, M: T @ X - R @ M, kept, self._rows(self._factors), moved, steps)
        torch._foreach_copy_(list(self._factors), [self._as_rows(own) for own in rows])

    def _decays(self, which: int) -> Tensor:
        """Return b1 or b2 with bias correction, float64 [N, 1, 1]."""
        known = zip(self._settings, self._states, strict=True)
        pairs = [(setting["betas"][which], state["step"]) for setting, state in known]
        return self._each([b * (1 - b**t) / (1 - b ** (t + 1)) for b, t in pairs])

    def _each(self, numbers: Sequence[float]) -> Tensor:
        """Return a number for every pair as float64 [N, 1, 1]."""
        return torch.tensor(numbers, dtype=torch.float64).to(self._place)[:, None, None]

    def _rows(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [self._as_rows(own).to(self._precision) for own in tensors]

    def _remembered(self, key: str) -> list[Tensor]:
        return self._rows([state[key] for state in self._states])

    def _remember(self, key: str, rows: list[Tensor]) -> None:
        torch._foreach_copy_([state[key] for state in self._states], [self._as_rows(own) for own in rows])

    def _small(self, key: str) -> Tensor:
        return torch.stack([state[key] for state in self._states]).to(self._place).double()

    def _large(self, matrices: Tensor) -> Tensor:
        """Return r x r matrices as products with factors need them."""
        return matrices.to(self._device, self._precision)


def _precision(factor: Tensor) -> torch.dtype:
    """Return the dtype of moments: the factor's own, or float32 for factors in half precision."""
    return torch.promote_types(factor.dtype, torch.float32)
