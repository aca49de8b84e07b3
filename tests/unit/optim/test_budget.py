"""AdaLoRA: its layer against the definition, its course against PEFT's, its budget against the paper's formula."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import peft
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from reflora_cli.adapter_io.config import NamedBase
from reflora_cli.adapter_io.files import CONFIG, adapter_tensors, read_adapter, write_adapter, write_adapter_config
from reflora_cli.adapter_io.formats import adapter_config, format_of
from reflora_cli.adapter_io.loading import load_adapter
from reflora_cli.adapters.adalora import AdaLoRALinear
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.frozen import freeze
from reflora_cli.factors.pair import Triplets
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from reflora_cli.optim.budget import Budget, BudgetRule
from reflora_cli.optim.build import Rates, build_course, build_optimizer
from reflora_cli.optim.partition import Partition
from reflora_cli.recipe.sections import Recipe
from reflora_cli.training.prepare import roles_in, total_steps
from tests.models import HEADS, batch, injected, make
from tests.unit.training.test_job import SAMPLER

STEPS, INITIAL, FINAL, INTERVAL, RANK, TARGET = 24, 4, 6, 3, 4, 2
LAYER = {
    "kind": "adalora", "target_rank": TARGET, "initial_steps": INITIAL, "final_steps": FINAL, "interval": INTERVAL,
    "penalty": 0.2,
}  # fmt: skip
METHOD = Method(name="adalora", rank=RANK, alpha=8.0, layer=LAYER)


def step(model: nn.Module, optimizer: Partition, seed: int) -> float:
    inputs, labels = batch(seed=seed)
    loss = F.cross_entropy(model(**inputs).logits, labels)
    penalty = optimizer.rule.penalty()
    assert penalty is not None
    (loss + penalty).backward()
    optimizer.step()
    optimizer.zero_grad()
    return (loss + penalty).item()


def trained(name: str, base: nn.Module) -> tuple[nn.Module, Adapted, Partition]:
    """A model that has not begun yet."""
    model = copy.deepcopy(base)
    adapted = injected(model, METHOD, HEADS[name], HEADS[name], seed=3)
    course = build_course(METHOD, adapted.triplets, STEPS)
    return model, adapted, build_optimizer(METHOD, roles_in(adapted), Rates(1e-2, None, 0.0), course)


def peft_twin(name: str, base: nn.Module, adapted: Adapted) -> nn.Module:
    config = peft.AdaLoraConfig(
        task_type="SEQ_CLS", init_r=RANK, target_r=TARGET, lora_alpha=8, tinit=INITIAL, tfinal=FINAL, deltaT=INTERVAL,
        total_step=STEPS, orth_reg_weight=0.2, target_modules=list(adapted.layers), modules_to_save=list(HEADS[name]),
        fan_in_fan_out=name == "gpt2",
    )  # fmt: skip
    model = peft.get_peft_model(copy.deepcopy(base), config)
    modules = dict(model.base_model.model.named_modules())
    for path, layer in adapted.layers.items():
        for key in "AEB":
            getattr(modules[path], f"lora_{key}")["default"].data.copy_(layer.get_parameter(key))
    return model


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_whole_course_follows_peft(name: str) -> None:
    """All three phases: losses with their penalties, every trained tensor, and which triplets are left."""
    base = make(name)
    ours, adapted, optimizer = trained(name, base)
    theirs = peft_twin(name, base, adapted)
    their_optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    ours.train(), theirs.train()
    for number in range(1, STEPS + 1):
        inputs, labels = batch(seed=number)
        loss = theirs(**inputs, labels=labels).loss
        loss.backward()
        their_optimizer.step()
        theirs.base_model.update_and_allocate(number)
        their_optimizer.zero_grad()
        assert step(ours, optimizer, number) == pytest.approx(loss.item(), abs=1e-5)
    modules = dict(theirs.base_model.model.named_modules())
    left = []
    for path, layer in adapted.layers.items():
        assert isinstance(layer, AdaLoRALinear)
        for key in "AEB":
            other = getattr(modules[path], f"lora_{key}")["default"]
            torch.testing.assert_close(layer.get_parameter(key), other, atol=1e-4, rtol=0)
        left.append(int((layer.E != 0).sum()))
        assert torch.equal(layer.E != 0, modules[path].lora_E["default"] != 0)
    assert sum(left) == TARGET * len(left)
    assert len(set(left)) > 1


def test_the_budget_falls_by_the_paper_s_formula() -> None:
    budget = Budget(first=40, last=16, initial=10, final=50, steps=100, interval=5)
    found = [budget.at(step) for step in range(101)]
    assert found[:11] == [40] * 11
    assert found[50:] == [16] * 51
    assert found[30] == int(16 + 24 * (1 - 20 / 40) ** 3)
    assert found == sorted(found, reverse=True)
    assert [step for step in range(101) if budget.is_due(step)] == [15, 20, 25, 30, 35, 40, 45, 50]


def rule_of(scores: list[float], last: int) -> tuple[BudgetRule, Triplets]:
    """A rule on triplets with these entries of E, whose gradients are one; A and B count for nothing."""
    E = nn.Parameter(torch.tensor(scores)[:, None])
    own = Triplets("one", nn.Parameter(torch.zeros(len(E), 3)), E, nn.Parameter(torch.zeros(2, len(E))))
    E.grad = torch.ones_like(E)
    return BudgetRule([own], Budget(len(E), last, 0, 1, 4, 1), (0.5, 0.5), 0.0), own


@pytest.mark.parametrize(("last", "left"), [(4, [True] * 4), (2, [False, True, False, True])])
def test_exactly_the_budget_is_left_also_where_nothing_is_given_up(last: int, left: list[bool]) -> None:
    """PEFT fails where nothing is to be given up, and gives up all that are equal to the last one."""
    rule, own = rule_of([1.0, 3.0, 2.0, 4.0], last)
    for _ in range(3):
        rule.after_step({})
    assert (own.E[:, 0] != 0).tolist() == left
    own.E.data.fill_(1.0)
    rule.after_step({})
    assert (own.E[:, 0] != 0).tolist() == left
    equal, tied = rule_of([1.0] * 4, 3)
    for _ in range(3):
        equal.after_step({})
    assert int((tied.E != 0).sum()) == 3


def test_scores_are_those_of_the_paper() -> None:
    """Two steps, written out in float64."""
    torch.manual_seed(0)
    A, E, B = (nn.Parameter(torch.randn(shape)) for shape in ((3, 5), (3, 1), (4, 3)))
    rule = BudgetRule([Triplets("one", A, E, B)], Budget(3, 1, 9, 1, 20, 1), (0.85, 0.6), 0.0)
    sensitivity, doubt = ([torch.zeros(own.shape, dtype=torch.float64) for own in (A, E, B)] for _ in range(2))
    for _ in range(2):
        for index, own in enumerate((A, E, B)):
            own.grad = torch.randn(own.shape)
            new = (own.double() * own.grad.double()).abs().detach()
            sensitivity[index] = 0.85 * sensitivity[index] + 0.15 * new
            doubt[index] = 0.6 * doubt[index] + 0.4 * (new - sensitivity[index]).abs()
        rule.after_step({})
    a, e, b = (one * other for one, other in zip(sensitivity, doubt, strict=True))
    torch.testing.assert_close(rule.scores()[0].double(), e[:, 0] + a.mean(dim=1) + b.mean(dim=0), atol=1e-6, rtol=1e-5)


def test_the_penalty_is_of_norms() -> None:
    torch.manual_seed(0)
    A, E, B = (nn.Parameter(torch.randn(shape)) for shape in ((3, 5), (3, 1), (4, 3)))
    rule = BudgetRule([Triplets("one", A, E, B)], Budget(3, 1, 9, 1, 20, 1), (0.85, 0.6), 0.3)
    I = torch.eye(3, dtype=torch.float64)  # noqa: E741
    expected = 0.3 * ((A.double() @ A.double().T - I).norm() + (B.double().T @ B.double() - I).norm()) / 2
    found = rule.penalty()
    assert found is not None
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("stop", [INITIAL + INTERVAL, STEPS - FINAL, STEPS - 2])
def test_a_course_that_is_interrupted_equals_one_that_is_not(stop: int) -> None:
    base = make("bert")
    whole, part = trained("bert", base), trained("bert", base)
    for number in range(STEPS):
        step(whole[0], whole[2], number)
    for number in range(stop):
        step(part[0], part[2], number)
    saved = {name: own.clone() for name, own in part[2].tensors(part[1].parameters).items()}
    optimizer = build_optimizer(METHOD, roles_in(part[1]), Rates(1e-2, None, 0.0),
                                build_course(METHOD, part[1].triplets, STEPS))  # fmt: skip
    optimizer.load_tensors(part[1].parameters, saved)
    for number in range(stop, STEPS):
        step(part[0], optimizer, number)
    for name, parameter in whole[1].parameters.items():
        assert torch.equal(parameter, part[1].parameters[name]), name
    wrong = {name: own for name, own in saved.items() if not name.startswith("rule.")}
    with pytest.raises(ValueError, match="missing"):
        optimizer.load_tensors(part[1].parameters, wrong)


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")
def test_a_file_without_the_triplets_given_up_is_the_same_adapter_here_and_in_peft(tmp_path: Path) -> None:
    base = make("bert")
    model, adapted, optimizer = trained("bert", base)
    for number in range(STEPS):
        step(model, optimizer, number)
    first = next(iter(adapted.layers.values()))
    first.get_parameter("E").data.zero_()  # a module with none left
    config = adapter_config(model, adapted, METHOD, HEADS["bert"], NamedBase("base", None), "SEQ_CLS")
    tensors = adapter_tensors(model, adapted, HEADS["bert"])
    config, short = format_of(adapted).condensed(config, tensors)
    write_adapter_config(tmp_path, config, {})
    write_adapter(tmp_path, short)
    assert sum(own.numel() for own in short.values()) < 0.8 * sum(own.numel() for own in tensors.values())
    inputs, _ = batch(seed=9)
    fresh = copy.deepcopy(base)
    load_adapter(fresh, read_adapter(tmp_path), HEADS["bert"])
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path)).eval()
    with torch.no_grad():
        expected = model.eval()(**inputs).logits
        torch.testing.assert_close(fresh.eval()(**inputs).logits, expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(theirs(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
        assert (base.eval()(**inputs).logits - expected).abs().max() > 1e-2
    pattern = json.loads((tmp_path / CONFIG).read_text())["rank_pattern"]
    assert sum(pattern[f"{next(iter(adapted.layers))}.lora_E"]) == 0
    pattern[f"{next(iter(adapted.layers))}.lora_E"] = [True] + [False] * (RANK - 1)
    (tmp_path / CONFIG).write_text(json.dumps({**config, "rank_pattern": pattern}))
    with pytest.raises(InputError, match="tensors do not fit"):
        load_adapter(copy.deepcopy(base), read_adapter(tmp_path), HEADS["bert"])


def test_peft_s_adapter_computes_the_same_here(tmp_path: Path) -> None:
    base = make("bert")
    _, adapted, _ = trained("bert", base)
    theirs = peft_twin("bert", base, adapted)
    generator = torch.Generator().manual_seed(0)
    for own in theirs.parameters():
        if own.requires_grad:
            own.data.add_(0.3 * torch.randn(own.shape, generator=generator))
    theirs.save_pretrained(tmp_path)
    fresh, (inputs, _) = copy.deepcopy(base), batch(seed=9)
    load_adapter(fresh, read_adapter(tmp_path), HEADS["bert"])
    with torch.no_grad():
        expected = theirs.eval()(**inputs).logits
        torch.testing.assert_close(fresh.eval()(**inputs).logits, expected, atol=1e-5, rtol=1e-5)


def test_value_and_gradients_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    layer = AdaLoRALinear(freeze(nn.Linear(9, 7)), (torch.randn(3, 9), torch.randn(3, 1), torch.randn(7, 3)), 0.7, 0.0)
    x, upstream = torch.randn(5, 9, requires_grad=True), torch.randn(5, 7)
    found = torch.autograd.grad(layer(x), [x, layer.A, layer.E, layer.B], upstream)
    doubles = [own.detach().double().requires_grad_() for own in (x, layer.A, layer.E, layer.B)]
    X, A, E, B = doubles
    y = F.linear(X, layer.frozen.dense().double() + 0.7 * B @ torch.diag(E[:, 0]) @ A, layer.bias.double())  # type: ignore[union-attr]
    torch.testing.assert_close(layer(x).double(), y, atol=1e-5, rtol=1e-5)
    for mine, other in zip(found, torch.autograd.grad(y, doubles, upstream.double()), strict=True):
        torch.testing.assert_close(mine.double(), other, atol=2e-5, rtol=1e-4)


def test_what_leaves_nothing_to_give_up_in_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"target_rank=9 is more than the rank at the start, method\.rank=8"):
        Method(name="adalora", rank=8, layer={"kind": "adalora", "target_rank": 9})
    assert [Method(name="adalora", rank=rank).layer.target(rank) for rank in (1, 2, 3, 12)] == [1, 1, 2, 8]

    def recipe(**layer: int) -> Recipe:
        method = {"name": "adalora", "layer": {"kind": "adalora", **layer}}
        return Recipe.model_validate(
            {"model": {"name": "m"}, "task": {"name": "t"}, "train": {"steps": 5}, "method": method}
        )

    assert total_steps(recipe(), SAMPLER) == total_steps(recipe(initial_steps=2, final_steps=2), SAMPLER) == 5
    with pytest.raises(InputError, match=r"too short for method.layer=adalora[\s\S]*initial_steps 3 and final_steps 2"):
        total_steps(recipe(initial_steps=3, final_steps=2), SAMPLER)
