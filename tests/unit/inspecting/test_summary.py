"""Sums and means over modules, and which of them changed most."""

from __future__ import annotations

import math

import pytest

from reflora_cli.inspecting.inspect import Inspection, InspectRequest, inspect
from reflora_cli.inspecting.summary import ordered
from tests.unit.combining.adapters import PLACE, make


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    adapter = make(tmp_path_factory.mktemp("adapter") / "one", 3, r=2, lora_alpha=4)
    return inspect(InspectRequest(str(adapter), base=PLACE))


def test_groups_divide_the_modules(found: Inspection) -> None:
    for groups, count in ((found.kinds, 3), (found.depths, 5)):
        assert len(groups) == count
        assert sum(own.modules for own in groups) == len(found.modules) == found.total.modules == 15
        assert math.hypot(*(own.frobenius or 0.0 for own in groups)) == pytest.approx(found.total.frobenius)
    assert [own.name for own in found.depths] == ["0", "1", "2", "3", "4"]


def test_norms_of_a_group_are_those_of_its_weights_side_by_side(found: Inspection) -> None:
    group = next(own for own in found.kinds if own.name == "v_proj")
    own = [module for module in found.modules if module.kind == "v_proj"]
    change = math.hypot(*(module.frobenius or 0.0 for module in own))
    assert group.relative == pytest.approx(change / math.hypot(*(module.rows.weight for module in own if module.rows)))
    ranks = [module.low_rank.effective_rank or 0.0 for module in own if module.low_rank]
    assert group.effective_rank == pytest.approx(sum(ranks) / 5)
    assert (group.cosine, group.phi_rows) == (None, None)


def test_the_most_changed_module_is_the_first(found: Inspection) -> None:
    sizes = [own.relative_frobenius or 0.0 for own in ordered(found.modules)]
    assert len(sizes) == 15
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] > 0
