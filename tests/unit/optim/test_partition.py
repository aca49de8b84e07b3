"""An optimizer made of optimizers: it is what its members are, for loops, wrappers, schedulers and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.member import Member
from reflora_cli.optim.pair_adamw import AdamWMember, PairAdamW
from reflora_cli.optim.pair_adamw_8bit import BitsAndBytesMember, PairAdamW8bit
from reflora_cli.optim.pair_sgd import SGDMember
from reflora_cli.optim.partition import Partition
from reflora_cli.optim.reflora import RefLoRARule
from reflora_cli.optim.rule import PlainRule, UpdateRule


class Toy:
    """A pair on a frozen weight and a head of 64 x 72 elements, enough for moments in 8 bits."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.3 * torch.randn(*shape, generator=g))

        self.pair = FactorPair("module", normal(3, 6), normal(72, 3), 1.0)
        self.head = normal(64, 72)
        self.W, self.X, self.Y = normal(72, 6).detach(), normal(32, 6).detach(), normal(32, 64).detach()

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {"A": self.pair.A, "B": self.pair.B, "head": self.head}

    def rule(self) -> UpdateRule:
        return RefLoRARule([self.pair], 2, 1, 1e-3)

    def groups(self, *names: str) -> list[dict[str, Any]]:
        return [{"params": [self.parameters[name] for name in names], "lr": 1e-2, "weight_decay": 0.1}]

    def loss(self) -> Tensor:
        hidden = torch.tanh(self.X @ (self.W + self.pair.B @ self.pair.A).T)
        return (hidden @ self.head.T - self.Y).square().mean()

    def train(self, optimizer: Any, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            self.loss().backward()
            optimizer.step()


KINDS = ["adamw", "adamw and sgd", "8 bits", "8 bits and adamw"]


def partition(kind: str, toy: Toy) -> Partition:
    """The head's optimizer first, so that a member's parameters are not numbered from zero."""
    pairs, head = toy.groups("A", "B"), toy.groups("head")
    members: dict[str, Sequence[Member]] = {
        "adamw": [AdamWMember(head), AdamWMember(pairs)],
        "adamw and sgd": [AdamWMember(head), SGDMember(pairs, 0.9)],
        "8 bits": [BitsAndBytesMember(head, is_paged=False), BitsAndBytesMember(pairs, is_paged=False)],
        "32 bits": [BitsAndBytesMember(own, is_paged=False, bits=32) for own in (head, pairs)],
        "8 bits and adamw": [BitsAndBytesMember(head, is_paged=False), AdamWMember(pairs)],
    }
    return Partition(members[kind], toy.rule())


def assert_equal(toy: Toy, other: Toy) -> None:
    assert all(torch.equal(parameter, other.parameters[name]) for name, parameter in toy.parameters.items())


@pytest.mark.parametrize("kind", ["adamw", "8 bits"])
def test_two_members_of_a_kind_are_one(kind: str) -> None:
    toy, other = Toy(), Toy()
    toy.train(partition(kind, toy), 8)
    groups = other.groups("A", "B", "head")
    whole = PairAdamW(groups, other.rule()) if kind == "adamw" else PairAdamW8bit(groups, other.rule(), is_paged=False)
    other.train(whole, 8)
    assert_equal(toy, other)


def test_moments_of_bitsandbytes_in_32_bits_step_as_those_of_torch() -> None:
    toy, other = Toy(), Toy()
    toy.train(partition("32 bits", toy), 8)
    other.train(partition("adamw", other), 8)
    for name, parameter in toy.parameters.items():
        torch.testing.assert_close(parameter, other.parameters[name], rtol=1e-5, atol=1e-6)


def test_each_member_steps_its_own_parameters() -> None:
    toy, other = Toy(), Toy()
    toy.train(Partition([AdamWMember(toy.groups("head")), SGDMember(toy.groups("A", "B"), 0.9)], PlainRule()), 5)
    apart = [
        torch.optim.AdamW([other.head], lr=1e-2, weight_decay=0.1),
        torch.optim.SGD([other.pair.A, other.pair.B], lr=1e-2, momentum=0.9),
    ]
    for _ in range(5):
        for optimizer in apart:
            optimizer.zero_grad()
        other.loss().backward()
        with torch.no_grad():
            for factor in (other.pair.A, other.pair.B):
                factor.mul_(1 - 1e-2 * 0.1)
        for optimizer in apart:
            optimizer.step()
    for name, parameter in toy.parameters.items():
        torch.testing.assert_close(parameter, other.parameters[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_schedulers_scalers_and_accelerate_reach_every_member(kind: str) -> None:
    """A halved rate, then one step that overflows and one that does not, through accelerate and without it."""
    found = []
    for wrapped in (False, True):
        toy = Toy()
        optimizer: Any = partition(kind, toy)
        optimizer = Accelerator(cpu=True).prepare(optimizer) if wrapped else optimizer
        inner = optimizer.optimizer if wrapped else optimizer
        scheduler = torch.optim.lr_scheduler.LambdaLR(inner, lambda step: 0.5**step)
        toy.train(optimizer, 3)
        scheduler.step()
        assert {group["lr"] for group in inner.param_groups} == {0.5e-2}
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
        before = {name: parameter.detach().clone() for name, parameter in toy.parameters.items()}
        for factor in (torch.inf, 1.0):
            optimizer.zero_grad()
            scaler.scale(toy.loss() * factor).backward()
            scaler.step(inner)
            scaler.update()
            moved = {name for name, parameter in toy.parameters.items() if not torch.equal(parameter, before[name])}
            assert moved == (set() if factor == torch.inf else set(toy.parameters))
        assert inner.rule.tensors()["steps"] == 4
        found.append(toy)
    assert_equal(*found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["tensors", "state_dict"])
def test_an_interrupted_run_equals_an_uninterrupted_one_to_the_bit(kind: str, way: str, tmp_path: Path) -> None:
    """Loaded over an optimizer that is further on; rates are restored by the state only."""
    straight, before, after = Toy(), Toy(), Toy()
    straight.train(partition(kind, straight), 9)
    optimizer, resumed = partition(kind, before), partition(kind, after)
    before.train(optimizer, 5)
    after.train(resumed, 7)
    with torch.no_grad():
        for name, parameter in after.parameters.items():
            parameter.copy_(before.parameters[name])
    if way == "tensors":
        save_file(optimizer.tensors(before.parameters), tmp_path / "optimizer.safetensors")
        resumed.load_tensors(after.parameters, load_file(tmp_path / "optimizer.safetensors"))
    else:
        for group in resumed.param_groups:
            group["lr"] = 1.0
        torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
        resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    after.train(resumed, 4)
    assert_equal(after, straight)


def test_a_state_with_codes_wrapped_by_bitsandbytes_is_loaded() -> None:
    """Earlier versions wrote the state as bitsandbytes' own `state_dict` gives it."""
    toy, other = Toy(), Toy()
    optimizer, resumed = partition("8 bits", toy), partition("8 bits", other)
    toy.train(optimizer, 5)
    saved = optimizer.state_dict()
    for number, state in saved["state"].items():
        codes = {key: value for key, value in state.items() if key.startswith(("state", "absmax", "qmap"))}
        rest = {key: value for key, value in state.items() if key not in codes}
        saved["state"][number] = {**rest, "__bnb_optimizer_quant_state__": codes}
    with torch.no_grad():
        for name, parameter in other.parameters.items():
            parameter.copy_(toy.parameters[name])
    resumed.load_state_dict(saved)
    toy.train(optimizer, 3)
    other.train(resumed, 3)
    assert_equal(toy, other)


def test_a_state_of_other_groups_is_refused_and_changes_nothing() -> None:
    toy = Toy()
    optimizer = partition("adamw", toy)
    toy.train(optimizer, 3)
    before = optimizer.tensors(toy.parameters)
    saved = PairAdamW(toy.groups("A", "B", "head"), toy.rule()).state_dict()
    with pytest.raises(ValueError, match=r"the saved groups have \[3\] parameters, and those of this optimizer \[1, 2"):
        optimizer.load_state_dict(saved)
    after = optimizer.tensors(toy.parameters)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_parameter_of_two_members_is_refused() -> None:
    toy = Toy()
    with pytest.raises(ValueError, match="more than one parameter group"):
        Partition([AdamWMember(toy.groups("A", "B")), AdamWMember(toy.groups("B"))], PlainRule())


def test_a_group_that_is_added_later_goes_to_the_last_member() -> None:
    toy = Toy()
    optimizer = Partition([SGDMember(toy.groups("A", "B"), 0.0), AdamWMember(toy.groups("head"))], PlainRule())
    late = nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [late], "lr": 0.5, "weight_decay": 0.0})
    late.grad = torch.ones(2)
    optimizer.step()
    assert late.tolist() == pytest.approx([0.5, 0.5])
    assert "exp_avg" in optimizer.state[late]
    assert len(optimizer.param_groups) == 3
