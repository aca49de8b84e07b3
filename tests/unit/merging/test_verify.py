"""What a comparison of logits says, and from where on it is refused."""

from __future__ import annotations

import pytest
import torch

from reflora_cli.ground.errors import VerificationError
from reflora_cli.merging.verify import Difference, difference, refuse, tolerance


def test_difference_of_logits() -> None:
    before = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    after = torch.tensor([[1.0, 2.0], [0.0, 0.5], [0.0, 1.0]])
    found = difference(before, after)
    assert found == Difference(rows=3, largest=3.0, mean=pytest.approx(3.5 / 6), changed_predictions=1)
    assert found.changed_rate == pytest.approx(1 / 3)


def test_a_regression_has_no_predictions_to_change() -> None:
    found = difference(torch.tensor([[1.0], [-1.0]]), torch.tensor([[-2.0], [2.0]]))
    assert (found.largest, found.changed_predictions) == (3.0, 0)


def test_no_rows_changed_nothing() -> None:
    assert Difference(rows=0, largest=0.0, mean=0.0, changed_predictions=0).changed_rate == 0.0


def test_tolerance_is_that_of_the_coarsest_dtype_and_grows_with_the_logits() -> None:
    """Each dtype's tolerance covers its rounding: many roundings of 2^-24, 2^-11 and 2^-8 of a weight add up."""
    ones, large = torch.full((2, 3), -1.0), torch.full((2, 3), -50.0)
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    accepted = [tolerance(ones, dtype) for dtype in dtypes]
    assert accepted == sorted(accepted)
    assert all(own > 10 * torch.finfo(dtype).eps for dtype, own in zip(dtypes, accepted, strict=True))
    assert tolerance(ones, *dtypes) == accepted[-1]
    assert tolerance(large, torch.float32) == pytest.approx(50 * accepted[0])
    assert tolerance(ones / 100, torch.float32) == accepted[0]


@pytest.mark.parametrize("largest", [0.2, float("nan"), float("inf")])
def test_what_is_beyond_or_no_number_is_refused(largest: float) -> None:
    found = Difference(rows=4, largest=largest, mean=0.0, changed_predictions=0)
    with pytest.raises(VerificationError, match=r"(?s)the graph does not compute.*at most 1\.00e-01"):
        refuse(found, 0.1, "somewhere", "the graph")


def test_what_is_just_accepted_is_accepted() -> None:
    refuse(Difference(rows=4, largest=0.1, mean=0.0, changed_predictions=4), 0.1, "somewhere")
