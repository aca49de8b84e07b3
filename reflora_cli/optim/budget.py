"""AdaLoRA's course: a budget of triplets that falls during a run, spent on the most important of all modules.

Zhang et al. 2023, AdaLoRA, arXiv 2303.10512. After step t of T, with the gradients that made it (averaged over
processes, and clipped), every entry w of A [r, in], E [r, 1] and B [out, r] has

    I    = |w g|                                     its sensitivity
    I_t  = beta1 I_t + (1 - beta1) I                 smoothed
    U_t  = beta2 U_t + (1 - beta2) |I - I_t|         and its uncertainty
    score of triplet k = (I U)(E_k) + mean_j (I U)(A_kj) + mean_j (I U)(B_jk)

The budget of all modules together is b0 until step t_i, then b(t) = floor(bT + (b0 - bT) (1 - (t - t_i) / (T - t_f -
t_i))^3), and bT for the last t_f steps. At every multiple of the interval E is set to zero for all but the b(t)
triplets of the highest scores: those keep receiving gradients and may return, until step T - t_f, from which on the
choice stays. Where scores are equal the earlier module gives up first; PEFT gives up all of them.

The penalty gamma mean(||A A^T - I||, ||B^T B - I||), over all A and B, is of norms, as in the authors' code and PEFT's;
the paper has their squares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.factors.pair import Triplets
from reflora_cli.optim.rule import UpdateRule, check_shapes


@dataclass(frozen=True)
class Budget:
    """How many triplets there may be after each step.

    first, last: b0 and bT, of all modules. initial, final: t_i and t_f. steps: T. interval: steps between two choices.
    """

    first: int
    last: int
    initial: int
    final: int
    steps: int
    interval: int

    @property
    def settled(self) -> int:
        """The step after which the choice stays."""
        return self.steps - self.final

    def at(self, step: int) -> int:
        """Return b(t)."""
        if step <= self.initial:
            return self.first
        if step >= self.settled:
            return self.last
        rest = 1 - (step - self.initial) / (self.settled - self.initial)
        return int((self.first - self.last) * rest**3 + self.last)

    def is_due(self, step: int) -> bool:
        """Whether triplets are chosen after this step."""
        return step == self.settled or (self.initial < step < self.settled and step % self.interval == 0)


class BudgetRule(UpdateRule):
    """Sets E to zero where a triplet is given up, after the optimizer's step.

    betas: beta1 and beta2. gamma: the penalty's weight; 0 for none.
    """

    def __init__(self, triplets: Sequence[Triplets], budget: Budget, betas: tuple[float, float], gamma: float) -> None:
        self._triplets, self._budget, self._betas, self._gamma = list(triplets), budget, betas, gamma
        self._entries = {
            f"{own.name}.{k}": p for own in triplets for k, p in (("A", own.A), ("E", own.E), ("B", own.B))
        }
        self._steps = 0
        self._forget()

    def _forget(self) -> None:
        """Begin without scores."""
        self._sensitivity = {name: torch.zeros_like(p, requires_grad=False) for name, p in self._entries.items()}
        self._uncertainty = {name: torch.zeros_like(p, requires_grad=False) for name, p in self._entries.items()}
        self._kept = [torch.ones_like(own.E, dtype=torch.bool) for own in self._triplets]

    def penalty(self) -> Tensor | None:
        if not self._gamma or not self._triplets:
            return None
        grams = [gram for own in self._triplets for gram in (own.A @ own.A.T, own.B.T @ own.B)]
        norms = [torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device)) for gram in grams]
        return self._gamma * torch.stack(norms).mean()

    def before_step(self) -> None:
        pass

    @torch.no_grad()
    def after_step(self, state: Mapping[Tensor, Any]) -> None:
        self._steps += 1
        if self._steps < self._budget.settled:
            self._score()
        if self._budget.is_due(self._steps):
            self._choose(self._budget.at(self._steps))
        elif self._steps > self._budget.settled:
            self._give_up()

    def logged(self) -> dict[str, float]:
        """Return `budget`: b(t) after the last step, the triplets that all modules together may have."""
        return {"budget": self._budget.at(self._steps)}

    def _score(self) -> None:
        """Take this step's sensitivities into the smoothed ones."""
        entries = list(self._entries.values())
        new = [(p * gradient(p)).abs() for p in entries]
        smooth, doubt = list(self._sensitivity.values()), list(self._uncertainty.values())
        torch._foreach_lerp_(smooth, new, 1 - self._betas[0])
        torch._foreach_lerp_(doubt, [(one - other).abs() for one, other in zip(new, smooth, strict=True)],
                             1 - self._betas[1])  # fmt: skip

    def scores(self) -> list[Tensor]:
        """Return the score of every triplet, [r] for each module."""
        entry = {name: own * self._uncertainty[name] for name, own in self._sensitivity.items()}
        return [
            entry[f"{own.name}.E"][:, 0] + entry[f"{own.name}.A"].mean(dim=1) + entry[f"{own.name}.B"].mean(dim=0)
            for own in self._triplets
        ]

    def _choose(self, budget: int) -> None:
        """Keep so many triplets of the highest scores."""
        scores = self.scores()
        together = torch.cat(scores)
        kept = torch.ones_like(together, dtype=torch.bool)
        kept[together.argsort(stable=True)[: max(0, len(together) - budget)]] = False
        self._kept = [own[:, None] for own in torch.split(kept, [len(own) for own in scores])]
        self._give_up()

    def _give_up(self) -> None:
        for own, kept in zip(self._triplets, self._kept, strict=True):
            own.E.masked_fill_(~kept, 0.0)

    def tensors(self) -> dict[str, Tensor]:
        """Return `steps`; the scores, `sensitivity.<parameter>` and `uncertainty.<parameter>`, until the choice stays,
        and `kept.<module>` from then on.
        """
        steps = {"steps": torch.tensor(self._steps)}
        if self._steps >= self._budget.settled:
            return {**steps, **{f"kept.{own.name}": kept for own, kept in zip(self._triplets, self._kept, strict=True)}}
        scores = {"sensitivity": self._sensitivity, "uncertainty": self._uncertainty}
        return {**steps, **{f"{key}.{name}": own for key, all_ in scores.items() for name, own in all_.items()}}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        steps = int(tensors.get("steps", torch.tensor(0)).sum())
        shapes: dict[str, tuple[int, ...]] = {"steps": ()}
        if settled := steps >= self._budget.settled:
            shapes |= {f"kept.{own.name}": tuple(own.E.shape) for own in self._triplets}
        else:
            shapes |= {f"{key}.{name}": tuple(p.shape) for name, p in self._entries.items()
                       for key in ("sensitivity", "uncertainty")}  # fmt: skip
        check_shapes(shapes, tensors)
        self._steps = steps
        self._forget()
        if settled:
            self._kept = [tensors[f"kept.{own.name}"].to(own.E.device) for own in self._triplets]
            return
        for name in self._entries:
            self._sensitivity[name].copy_(tensors[f"sensitivity.{name}"])
            self._uncertainty[name].copy_(tensors[f"uncertainty.{name}"])


def gradient(parameter: nn.Parameter) -> Tensor:
    """Return the gradient of a parameter, zero where none has reached it."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
