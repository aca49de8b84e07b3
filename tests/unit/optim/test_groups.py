"""Every trained parameter's rate and decay, and the optimizer that a method asks for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from reflora_cli.factors.pair import FactorPair
from reflora_cli.methods.method import Method
from reflora_cli.methods.settings import Optimizer
from reflora_cli.methods.update_record import Refactor
from reflora_cli.optim.build import Rates, build_optimizer, build_rule
from reflora_cli.optim.groups import parameter_groups, split_groups
from reflora_cli.optim.reflora import RefLoRARule
from reflora_cli.optim.reflora_s import RefLoRASRule
from reflora_cli.optim.roles import Roles
from reflora_cli.optim.rule import PlainRule, UpdateRule
from reflora_cli.optim.scaled_gd import ScaledGDRule


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape))


PAIRS = [FactorPair(f"layer.{n}", parameter(2, 4), parameter(3, 2), 1.0) for n in range(2)]
MAGNITUDES = {"layer.0.magnitude": parameter(3), "layer.1.magnitude": parameter(3)}
HEAD = {"head.weight": parameter(2, 3), "head.bias": parameter(2), "head.temperature": parameter()}


def groups(rates: Rates, lr_ratio: float = 1.0) -> dict[str, dict[str, Any]]:
    return {
        group.pop("name"): group
        for group in parameter_groups(Roles(PAIRS, undecayed=MAGNITUDES, others=HEAD), rates, lr_ratio)
    }


def same(parameters: list[nn.Parameter], others: list[nn.Parameter]) -> bool:
    return [id(one) for one in parameters] == [id(other) for other in others]


def test_frames_learn_at_the_rate_of_a_and_are_never_decayed() -> None:
    frame = parameter(4, 2)
    made = parameter_groups(Roles(PAIRS, frames={"layer.0.U": frame}), Rates(1e-3, None, 0.1), 16.0)
    found = {group["name"]: group for group in made}["frames"]
    assert (found["lr"], found["weight_decay"]) == (1e-3, 0.0)
    assert same(found["params"], [frame])


def test_groups_of_pairs_are_told_from_all_others() -> None:
    every = parameter_groups(Roles(PAIRS, undecayed=MAGNITUDES, others=HEAD), Rates(1e-3, None, 0.1), 1.0)
    of_pairs, of_others = split_groups(every, PAIRS)
    assert [group["name"] for group in of_pairs] == ["factors A", "factors B"]
    assert [group["name"] for group in of_others] == ["adapters, undecayed", "head", "head, undecayed"]
    assert split_groups(of_others, PAIRS) == ([], of_others)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("head", [HEAD, {}])
def test_lora_rite_steps_the_pairs_and_the_chosen_optimizer_all_else(optimizer: str, head: dict[str, Any]) -> None:
    pairs = [FactorPair("layer", parameter(2, 4), nn.Parameter(torch.zeros(3, 2)), 1.0)]
    own = nn.Parameter(torch.ones(64, 64))
    others = {**head, "own": own} if head else {}
    made = build_optimizer(
        Method(name="lora-rite", lr_ratio=4.0),
        Roles(pairs, others=others),
        Rates(1e-3, 1e-4, 0.1, Optimizer(optimizer)),
    )
    for group in made.param_groups:
        for member in group["params"]:
            member.grad = torch.ones_like(member)
    made.step()
    assert made.param_groups[0]["name"] == "factors A"
    assert made.param_groups[1]["lr"] == 4e-3
    assert "second_moment" in made.state[pairs[0].A]
    if head:
        assert ("exp_avg" if optimizer == "adamw" else "state1") in made.state[own]
    assert (len(made.param_groups) > 2) == bool(head)


def test_every_parameter_is_in_the_group_of_its_role() -> None:
    found = groups(Rates(1e-3, 1e-4, 0.1), lr_ratio=16.0)
    expected = {
        "factors A": ([pair.A for pair in PAIRS], 1e-3, 0.1),
        "factors B": ([pair.B for pair in PAIRS], 16e-3, 0.1),
        "adapters, undecayed": (list(MAGNITUDES.values()), 1e-3, 0.0),
        "head": ([HEAD["head.weight"]], 1e-4, 0.1),
        "head, undecayed": ([HEAD["head.bias"], HEAD["head.temperature"]], 1e-4, 0.0),
    }
    assert found.keys() == expected.keys()
    for name, (parameters, rate, decay) in expected.items():
        assert same(found[name]["params"], parameters)
        assert found[name]["lr"] == found[name]["initial_lr"] == rate
        assert found[name]["weight_decay"] == decay


def test_a_head_without_a_rate_of_its_own_has_that_of_a() -> None:
    """Not that of B, and 0 is a rate."""
    assert groups(Rates(1e-3, None, 0.0), lr_ratio=16.0)["head"]["lr"] == 1e-3
    assert groups(Rates(1e-3, 0.0, 0.0))["head"]["lr"] == 0.0


def test_empty_groups_are_left_out() -> None:
    assert [group["name"] for group in parameter_groups(Roles(PAIRS), Rates(1e-3, None, 0.0), 1.0)] == [
        "factors A",
        "factors B",
    ]


def test_a_parameter_in_two_roles_is_refused() -> None:
    with pytest.raises(ValueError, match="in two groups"):
        parameter_groups(Roles(PAIRS, others={"layer.0.A": PAIRS[0].A}), Rates(1e-3, None, 0.0), 1.0)
    with pytest.raises(ValueError, match="in two groups"):
        parameter_groups(Roles([PAIRS[0], PAIRS[0]]), Rates(1e-3, None, 0.0), 1.0)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("lora", PlainRule),
        ("dora", PlainRule),
        ("lora+", PlainRule),
        ("reflora", RefLoRARule),
        ("reflora-s", RefLoRASRule),
        ("scaled-gd", ScaledGDRule),
    ],
)
def test_each_method_has_its_rule(name: str, rule: type[UpdateRule]) -> None:
    method = Method(name=name)
    optimizer = build_optimizer(method, Roles(PAIRS, undecayed=MAGNITUDES, others=HEAD), Rates(1e-3, None, 0.0))
    assert type(optimizer.rule) is rule
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates["factors B"] == 1e-3 * method.lr_ratio
    assert rates["adapters, undecayed"] == rates["head"] == 1e-3


def test_the_method_s_warmup_and_interval_reach_the_rule() -> None:
    """The first S is computed after two plain steps and is still in use, hence saved, after the third."""
    method = Method(name="reflora", refactor=Refactor(warmup_steps=2, interval=5))
    rule = build_rule(method.update, Roles(PAIRS))
    saved = []
    for _ in range(7):
        rule.before_step()
        rule.after_step({})
        saved.append(len(rule.tensors()) > 1)
    assert saved == [False, False, True, True, True, True, False]
