"""Compare a written model, as loaded back from disk, with the model that it was made from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reflora_cli.ground.errors import Problem, VerificationError

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1.5e-1}
"""The largest accepted logit difference by dtype of the written weights, as a share of the largest logit (at least 1).

In float32 only the order of sums differs. The half precisions round every weight once, to 2^-11 and 2^-8 of its size.
"""


@dataclass(frozen=True)
class Difference:
    """How far two sets of logits [n, k] are apart."""

    rows: int
    largest: float
    mean: float
    changed_predictions: int

    @property
    def changed_rate(self) -> float:
        return self.changed_predictions / max(1, self.rows)


def difference(before: Tensor, after: Tensor) -> Difference:
    """Compare logits [n, k] of the same rows; a regression's single logit has no predictions to change."""
    apart = (after - before).abs()
    changed = int((after.argmax(dim=1) != before.argmax(dim=1)).sum())
    return Difference(len(before), float(apart.max()), float(apart.mean()), changed)


def summary(found: Difference) -> dict[str, float]:
    """Return what reports say of a difference that is no fault but a price."""
    return {"largest": found.largest, "mean": found.mean, "changed_rate": found.changed_rate}


def tolerance(before: Tensor, *dtypes: torch.dtype) -> float:
    """Return the largest accepted difference between models that compute or store in these dtypes."""
    return max(TOLERANCE[dtype] for dtype in dtypes) * max(1.0, float(before.abs().max()))


def refuse(found: Difference, accepted: float, output: str, model: str = "the merged model") -> None:
    """Raises VerificationError when the difference is not accepted. model: the name in the message of what was loaded
    back.
    """
    if not found.largest <= accepted:
        problem = Problem(
            f"{model} does not compute what its source does; nothing was written",
            where=output,
            found=f"largest logit difference {found.largest:.2e} on {found.rows} rows",
            expected=f"at most {accepted:.2e}",
        )
        raise VerificationError(problem)
