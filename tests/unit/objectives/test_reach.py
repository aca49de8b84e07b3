"""Which parameters a result depends on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reflora_cli.objectives.reach import unused_parameters


class Mixture(nn.Module):
    """A table that is read without a call, two experts of which one is chosen, and a layer that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4)
        self.blocks = nn.ModuleList([nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])})])
        self.unread = nn.Linear(4, 4)
        self.requires_grad_(False)

    def forward(self) -> Tensor:
        self.unread(self.table.weight)
        chosen: Tensor = self.blocks[0]["experts"][1](self.table.weight * 0)
        return chosen


def test_parameters_are_found_without_their_modules_being_called() -> None:
    """A gradient of zero counts: it is another row's that is not."""
    model = Mixture()
    names = [name for name, _ in model.named_parameters()]
    assert unused_parameters(model, names, model) == ["unread.weight", "unread.bias"]
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("names", [["unread.weight"], []])
def test_a_result_that_depends_on_nothing(names: list[str]) -> None:
    model = Mixture()
    assert unused_parameters(model, names, lambda: torch.zeros(2)) == names
