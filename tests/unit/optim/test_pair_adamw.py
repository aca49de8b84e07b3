"""AdamW around a rule: the order of a step, the wrappers it must live in, and a state that is restored to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim import pair_adamw as module
from reflora_cli.optim.pair_adamw import AdamWMember, PairAdamW, runs_fused
from reflora_cli.optim.reflora import RefLoRARule
from reflora_cli.optim.reflora_s import RefLoRASRule
from reflora_cli.optim.rule import PlainRule, UpdateRule

RULES: dict[str, Callable[[list[FactorPair]], UpdateRule]] = {
    "plain": lambda pairs: PlainRule(),
    "reflora": lambda pairs: RefLoRARule(pairs, 3, 1, 1e-3),
    "reflora, interval 4": lambda pairs: RefLoRARule(pairs, 3, 4, 1e-3),
    "reflora-s": lambda pairs: RefLoRASRule(pairs, 3, 2),
}


@pytest.fixture(params=[False, True], ids=["default", "fused"])
def fused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let AdamW take its steps fused, as on a CUDA device, or not."""
    monkeypatch.setattr(module, "runs_fused", lambda groups: request.param)
    return bool(request.param)


class Toy:
    """Two pairs in a chain and a head, all float32; a third parameter never has a gradient."""

    def __init__(self, rule: str = "reflora") -> None:
        g = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.3 * torch.randn(*shape, generator=g))

        self.pairs = [
            FactorPair("first", normal(3, 6), nn.Parameter(torch.zeros(7, 3)), 1.0),
            FactorPair("second", normal(2, 7), nn.Parameter(torch.zeros(5, 2)), 1.0),
        ]
        self.bases = [normal(7, 6).detach(), normal(5, 7).detach()]
        self.head, self.unused = normal(4, 5), normal(2)
        self.X, self.Y = normal(32, 6).detach(), normal(32, 4).detach()
        self.optimizer = PairAdamW(
            [{"params": list(self.parameters.values()), "lr": 1e-2, "weight_decay": 0.1}], RULES[rule](self.pairs)
        )

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        factors = {f"{pair.name}.{key}": getattr(pair, key) for pair in self.pairs for key in ("A", "B")}
        return factors | {"head": self.head, "unused": self.unused}

    def loss(self) -> Tensor:
        x = self.X
        for pair, W in zip(self.pairs, self.bases, strict=True):
            x = torch.tanh(x @ (W + pair.B @ pair.A).T)
        return (x @ self.head.T - self.Y).square().mean()

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.loss().backward()
            self.optimizer.step()

    def copy_parameters(self, other: Toy) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(other.parameters[name])


def assert_equal(toy: Toy, other: Toy) -> None:
    assert all(torch.equal(parameter, other.parameters[name]) for name, parameter in toy.parameters.items())


class Recorder(UpdateRule):
    """Writes down when it is called and what the parameter is then."""

    def __init__(self, parameter: nn.Parameter) -> None:
        self.parameter = parameter
        self.calls: list[tuple[str, float]] = []

    def before_step(self) -> None:
        self.calls.append(("before", self.parameter.item()))

    def after_step(self, state: Mapping[Tensor, Any]) -> None:
        assert "exp_avg" in state[self.parameter]
        self.calls.append(("after", self.parameter.item()))

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        pass


def recorded() -> tuple[nn.Parameter, Recorder, PairAdamW]:
    parameter = nn.Parameter(torch.tensor(1.0))
    rule = Recorder(parameter)
    return parameter, rule, PairAdamW([{"params": [parameter], "lr": 0.5, "weight_decay": 0.0}], rule)


def test_the_rule_acts_before_and_after_the_update() -> None:
    parameter, rule, optimizer = recorded()
    parameter.grad = torch.tensor(2.0)
    optimizer.step()
    assert rule.calls == [("before", 1.0), ("after", pytest.approx(0.5))]


def test_a_closure_is_evaluated_before_the_rule_acts() -> None:
    parameter, rule, optimizer = recorded()

    def closure() -> float:
        rule.calls.append(("closure", parameter.item()))
        parameter.grad = torch.tensor(2.0)
        return 3.0

    assert optimizer.step(closure) == 3.0
    assert rule.calls == [("closure", 1.0), ("before", 1.0), ("after", pytest.approx(0.5))]


def test_with_the_plain_rule_it_is_adamw() -> None:
    toy, other = Toy("plain"), Toy("plain")
    adamw = torch.optim.AdamW(list(other.parameters.values()), lr=1e-2, weight_decay=0.1)
    toy.train(10)
    for _ in range(10):
        adamw.zero_grad()
        other.loss().backward()
        adamw.step()
    assert_equal(toy, other)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_descends_from_b_equal_to_zero(rule: str) -> None:
    toy = Toy(rule)
    before = toy.loss().item()
    toy.train(60)
    assert toy.loss().item() < 0.8 * before


def test_torch_schedulers_drive_it() -> None:
    toy = Toy()
    scheduler = torch.optim.lr_scheduler.LambdaLR(toy.optimizer, lambda step: 1 / (1 + step))
    for _ in range(3):
        toy.train(1)
        scheduler.step()
    assert toy.optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 / 4)
    assert toy.optimizer.rule.tensors()["steps"] == 3


@pytest.mark.parametrize("rule", RULES)
def test_accelerate_drives_it(rule: str) -> None:
    toy, other = Toy(rule), Toy(rule)
    optimizer = Accelerator(cpu=True).prepare(toy.optimizer)
    for _ in range(8):
        optimizer.zero_grad()
        toy.loss().backward()
        optimizer.step()
    other.train(8)
    assert_equal(toy, other)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.usefixtures("fused")
def test_a_step_that_overflows_is_not_counted(rule: str, wrapped: bool) -> None:
    """With a gradient scaler, three skipped steps among ten leave what seven steps leave; the scale divides out."""
    toy, other = Toy(rule), Toy(rule)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    optimizer: Any = toy.optimizer
    if wrapped:
        Accelerator(cpu=True)
        optimizer = AcceleratedOptimizer(toy.optimizer, scaler=scaler)
    for step in range(10):
        optimizer.zero_grad()
        scaler.scale(toy.loss() * (torch.inf if step in (0, 4, 5) else 1.0)).backward()
        if wrapped:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    other.train(7)
    assert_equal(toy, other)
    assert toy.optimizer.rule.tensors().get("steps", 7) == 7


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("stop", [0, 2, 3, 5, 8])
@pytest.mark.usefixtures("fused")
def test_an_interrupted_run_equals_an_uninterrupted_one_to_the_bit(rule: str, stop: int, tmp_path: Path) -> None:
    straight, before, after = Toy(rule), Toy(rule), Toy(rule)
    straight.train(12)
    before.train(stop)
    save_file(before.optimizer.tensors(before.parameters), tmp_path / "optimizer.safetensors")
    after.copy_parameters(before)
    after.optimizer.load_tensors(after.parameters, load_file(tmp_path / "optimizer.safetensors"))
    after.train(12 - stop)
    assert_equal(after, straight)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("stop", [2, 5])
def test_torch_s_state_carries_the_rule(rule: str, stop: int, tmp_path: Path) -> None:
    """Stopped within the warm-up, and between two computations of S; loaded over a state that is further on."""
    straight, before, after = Toy(rule), Toy(rule), Toy(rule)
    straight.train(12)
    before.train(stop)
    torch.save(before.optimizer.state_dict(), tmp_path / "optimizer.pt")
    after.train(7)
    after.copy_parameters(before)
    after.optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    after.train(12 - stop)
    assert_equal(after, straight)


def test_the_state_of_another_optimizer_is_refused_and_changes_nothing() -> None:
    toy = Toy()
    toy.train(5)
    adamw = torch.optim.AdamW(list(toy.parameters.values()))
    with pytest.raises(ValueError, match="missing steps"):
        toy.optimizer.load_state_dict(adamw.state_dict())
    fewer = torch.optim.AdamW([toy.head])
    with pytest.raises(ValueError, match="the saved groups have"):
        toy.optimizer.load_state_dict(fewer.state_dict() | {"rule": {"steps": torch.tensor(1)}})
    toy.optimizer.load_state_dict(toy.optimizer.state_dict())
    assert toy.optimizer.rule.tensors()["steps"] == 5
    Toy("plain").optimizer.load_state_dict(adamw.state_dict())


@pytest.mark.parametrize("steps", [0, 5])
def test_a_state_is_loaded_over_another_one(steps: int) -> None:
    """Whatever the optimizer did before is forgotten; tensors saved once do not change with further training."""
    toy, other = Toy(), Toy()
    toy.train(steps)
    saved = toy.optimizer.tensors(toy.parameters)
    copies = {key: tensor.clone() for key, tensor in saved.items()}
    other.train(9)
    other.copy_parameters(toy)
    other.optimizer.load_tensors(other.parameters, saved)
    toy.train(3)
    other.train(3)
    assert_equal(toy, other)
    assert all(torch.equal(saved[key], copies[key]) for key in saved)


def test_names_and_not_places_decide_what_is_restored() -> None:
    toy, other = Toy(), Toy()
    toy.train(5)
    saved = toy.optimizer.tensors(toy.parameters)
    shuffled = list(other.parameters.values())[::-1]
    other.optimizer = PairAdamW(
        [{"params": shuffled, "lr": 1e-2, "weight_decay": 0.1}], RefLoRARule(other.pairs, 3, 1, 1e-3)
    )
    other.copy_parameters(toy)
    other.optimizer.load_tensors(dict(reversed(other.parameters.items())), saved)
    toy.train(3)
    other.train(3)
    assert_equal(toy, other)


def test_what_is_saved() -> None:
    toy = Toy()
    toy.train(4)
    saved = toy.optimizer.tensors(toy.parameters)
    trained = [name for name in toy.parameters if name != "unused"]
    moments = {f"{key}.{name}" for key in ("exp_avg", "exp_avg_sq") for name in trained}
    assert saved.keys() == {"rule.steps"} | {f"step.{name}" for name in toy.parameters} | moments
    assert saved["step.unused"] == 0
    assert saved["step.head"] == 4
    assert saved["exp_avg.first.B"].shape == (7, 3)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tensors: tensors.pop("exp_avg.head"), "missing exp_avg.head"),
        (lambda tensors: tensors.pop("step.unused"), "missing step.unused"),
        (lambda tensors: tensors.pop("rule.steps"), "missing steps"),
        (lambda tensors: tensors.update({"exp_avg.tail": torch.ones(1)}), "unexpected exp_avg.tail"),
        (lambda tensors: tensors.update({"rule.p": torch.ones(1)}), "unexpected p"),
        (
            lambda tensors: tensors.update({"exp_avg.head": torch.ones(2)}),
            r"exp_avg.head has shape \(2,\), not \(4, 5\)",
        ),
        (lambda tensors: tensors.update({"step.head": torch.ones(2)}), r"step.head has shape \(2,\), not \(\)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    change: Callable[[dict[str, Tensor]], object], complaint: str
) -> None:
    toy = Toy()
    toy.train(5)
    before = toy.optimizer.tensors(toy.parameters)
    tensors = dict(before)
    change(tensors)
    with pytest.raises(ValueError, match=complaint):
        toy.optimizer.load_tensors(toy.parameters, tensors)
    after = toy.optimizer.tensors(toy.parameters)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_parameters_without_a_name_are_refused() -> None:
    toy = Toy()
    partial = {name: parameter for name, parameter in toy.parameters.items() if name != "head"}
    with pytest.raises(ValueError, match="1 parameters of the optimizer have no name"):
        toy.optimizer.tensors(partial)
    with pytest.raises(ValueError, match="1 named parameters are not in the optimizer"):
        toy.optimizer.load_tensors({**toy.parameters, "other": nn.Parameter(torch.ones(1))}, {})


@pytest.mark.parametrize("rule", RULES)
def test_fused_steps_are_those_of_the_default_implementation(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default = Toy(rule)
    monkeypatch.setattr(module, "runs_fused", lambda groups: True)
    fused = Toy(rule)
    assert [group["fused"] for group in fused.optimizer.param_groups] == [True]
    assert [group["fused"] for group in default.optimizer.param_groups] == [None]
    default.train(12)
    fused.train(12)
    for name, parameter in default.parameters.items():
        torch.testing.assert_close(fused.parameters[name], parameter, rtol=1e-4, atol=1e-6)


def test_steps_are_fused_on_cuda_devices_alone() -> None:
    class Parameter:
        def __init__(self, is_cuda: bool) -> None:
            self.is_cuda = is_cuda

    here, there = Parameter(False), Parameter(True)
    assert runs_fused([{"params": [there]}, {"params": [there, there]}])
    assert not runs_fused([{"params": [there]}, {"params": [there, here]}])
    assert AdamWMember([{"params": [nn.Parameter(torch.zeros(2))], "lr": 1.0}]).defaults["fused"] is None


def test_a_fused_step_is_counted_where_the_parameter_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, since a CPU has no other one."""
    monkeypatch.setattr(module, "runs_fused", lambda groups: True)
    parameter = nn.Parameter(torch.zeros(2, device="meta"))
    member = AdamWMember([{"params": [parameter], "lr": 1.0}])
    member.state[parameter] = {}
    member.count_steps(parameter, torch.tensor(3.0))
    assert member.state[parameter]["step"].device == parameter.device
