"""LoRA-Pro against its formulas: the closest step of the weight, the X closest to the gradients, and dense moments."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim import stacks
from reflora_cli.optim.lora_pro import Closest, LoRAProRule, gradients_of
from reflora_cli.optim.lora_pro_dense import DenseLoRAProMember
from reflora_cli.optim.pair_adamw import AdamWMember, PairAdamW
from reflora_cli.optim.pair_sgd import PairSGD
from reflora_cli.optim.partition import Partition
from reflora_cli.optim.rule import PlainRule
from reflora_cli.optim.stacks import group_pairs
from tests.unit.optim.references import (
    SCALES,
    SHAPES,
    HandAdam,
    conditioned,
    give_gradients,
    grad,
    pair_of,
    problem,
    random_pairs,
    relative,
)

RATE, SCALE = 1e-2, 4.0


def projected(A: Tensor, B: Tensor, G: Tensor) -> Tensor:
    """P_B G + G P_A - P_B G P_A, by pseudo-inverses."""
    PA, PB = torch.linalg.pinv(A) @ A, B @ torch.linalg.pinv(B)
    return PB @ G + G @ PA - PB @ G @ PA


def induced(pair: FactorPair, uA: Tensor, uB: Tensor) -> Tensor:
    """s (B uA + uB A)."""
    return pair.scale * (pair.B.detach() @ uA + uB @ pair.A.detach())


def closest(A: Tensor, B: Tensor, G: Tensor, s: float = SCALE) -> tuple[Tensor, Tensor]:
    """uA and uB of one pair by general inverses and a Kronecker system, undamped; the first step's at B = 0."""
    gA, gB = s * B.T @ G, s * G @ A.T
    GA, GB = A @ A.T, B.T @ B
    if not B.any():
        return gA, gB @ torch.linalg.inv(GA) / s**2
    GB_inverse, eye = torch.linalg.inv(GB), torch.eye(len(A), dtype=A.dtype)
    C = -GB_inverse @ gA @ A.T / s**2
    X = torch.linalg.solve(torch.kron(GB, eye) + torch.kron(eye, GA), C.flatten()).view_as(C)
    rest = gB - B @ GB_inverse @ B.T @ gB
    return GB_inverse @ gA / s**2 + X @ A, rest @ torch.linalg.inv(GA) / s**2 - B @ X


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("damping", "tolerance"), [(0.0, 1e-9), (1e-5, 1e-5)])
def test_the_weight_moves_along_the_closest_step_there_is(
    damping: float, tolerance: float, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pair by pair as on a CPU, and stacked as on a GPU, at the scale of each pair."""
    monkeypatch.setattr(stacks, "one_by_one", lambda device: not together)
    pairs, weights = random_pairs(scales=SCALES)
    LoRAProRule(pairs, damping).before_step()
    for pair, G in zip(pairs, weights, strict=True):
        step = induced(pair, grad(pair.A), grad(pair.B))
        assert relative(step, projected(pair.A.detach(), pair.B.detach(), G)) < tolerance
        assert (G * step).sum().item() == pytest.approx(step.square().sum().item(), rel=1e-4)
        for own, expected in zip(
            (pair.A, pair.B), closest(pair.A.detach(), pair.B.detach(), G, pair.scale), strict=True
        ):
            assert relative(grad(own), expected) < 10 * tolerance


def test_a_constant_scale_as_in_the_authors_code_is_not_the_closest_step() -> None:
    """Their 16 / 8 is right for one configuration only. uA and uB are linear in the gradients, which are those of s."""
    pairs, weights = random_pairs(scales=SCALES)
    for pair, G in zip(pairs, weights, strict=True):
        A, B = pair.A.detach(), pair.B.detach()
        uA, uB = (step * pair.scale / 2 for step in closest(A, B, G, s=2.0))
        distance = relative(induced(pair, uA, uB), projected(A, B, G))
        assert distance < 1e-9 if pair.scale == 2.0 else distance > 0.5


@pytest.mark.parametrize("damping", [0.0, 1e-4, 0.2])
def test_x_changes_the_steps_and_not_that_of_the_weight_and_brings_them_closest_to_the_gradients(
    damping: float,
) -> None:
    pairs, _ = random_pairs(scales=SCALES)
    for group in group_pairs(pairs):
        gA, gB = gradients_of(group)
        own = Closest(group, damping)
        with_x, without = own.to_gradients(gA, gB), own.to_weight(gA, gB)
        tolerance = 1e-9 if damping < 1e-3 else 1e-5
        for pair, uA, uB, vA, vB, a, b in zip(group.pairs, *with_x, *without, gA, gB, strict=True):
            assert relative(uA, vA) > 1e-3
            assert (
                relative(induced(pair, uA.double(), uB.double()), induced(pair, vA.double(), vB.double())) < tolerance
            )
            # No other X is closer: the derivative of the squared distance by X is zero.
            slope = (uA.double() - a) @ pair.A.T - pair.B.T @ (uB.double() - b)
            assert slope.norm() < tolerance * (pair.A.norm() * a.norm() + pair.B.norm() * b.norm())


def test_the_weight_s_step_does_not_depend_on_how_ba_is_factored() -> None:
    """Damping included; plain LoRA's does."""
    pairs, weights = random_pairs(scales=SCALES)
    g = torch.Generator().manual_seed(9)
    for pair, G in zip(pairs, weights, strict=True):
        T = conditioned(pair.rank, pair.rank, 100.0, g)
        other = pair_of(torch.linalg.solve(T, pair.A.detach()), pair.B.detach() @ T, scale=pair.scale)
        give_gradients(other, G)
        plain = [induced(own, grad(own.A), grad(own.B)) for own in (pair, other)]
        assert pair.rank == 1 or relative(plain[1], plain[0]) > 0.1
        for damping, tolerance in ((0.0, 1e-7), (1e-4, 1e-7)):
            for own in (pair, other):
                give_gradients(own, G)
                LoRAProRule([own], damping).before_step()
            steps = [induced(own, grad(own.A), grad(own.B)) for own in (pair, other)]
            assert relative(steps[1], steps[0]) < tolerance


def test_the_first_step_is_that_of_b_alone() -> None:
    pairs, weights = random_pairs(scales=SCALES)
    with torch.no_grad():
        pairs[1].B.zero_()
    give_gradients(pairs[1], weights[1])
    gB = grad(pairs[1].B).clone()
    rule = LoRAProRule(pairs, 1e-4)
    rule.before_step()
    A = pairs[1].A.detach()
    assert not grad(pairs[1].A).any()
    torch.testing.assert_close(grad(pairs[1].B), gB @ torch.linalg.inv(A @ A.T) / SCALES[1] ** 2, rtol=1e-8, atol=0)
    step = induced(pairs[1], grad(pairs[1].A), grad(pairs[1].B))
    assert relative(step, weights[1] @ torch.linalg.pinv(A) @ A) < 1e-8
    assert rule.stepped_plainly() == []
    assert (
        relative(grad(pairs[0].A), closest(pairs[0].A.detach(), pairs[0].B.detach(), weights[0], SCALES[0])[0]) < 1e-4
    )


def test_a_pair_without_inverses_keeps_its_gradients_and_its_neighbours_do_not() -> None:
    pairs, _ = random_pairs(scales=SCALES)
    with torch.no_grad():
        pairs[1].B.mul_(1e-19)
    before = [grad(pair.B).clone() for pair in pairs]
    rule = LoRAProRule(pairs, 0.0)
    rule.before_step()
    assert rule.stepped_plainly() == ["layers.1"]
    assert [torch.equal(grad(pair.B), own) for pair, own in zip(pairs, before, strict=True)] == [
        n == 1 for n in range(len(pairs))
    ]


def test_a_pair_that_is_not_finite_leaves_its_neighbours_alone() -> None:
    pairs, weights = random_pairs(scales=SCALES)
    with torch.no_grad():
        pairs[1].B.mul_(torch.nan)
    rule = LoRAProRule(pairs, 0.0)
    rule.before_step()
    assert rule.stepped_plainly() == ["layers.1"]
    for n in (0, 2, 3, 4):
        expected = closest(pairs[n].A.detach(), pairs[n].B.detach(), weights[n], SCALES[n])[0]
        assert relative(grad(pairs[n].A), expected) < 1e-7


def test_a_ba_of_lower_rank_has_finite_steps() -> None:
    pairs, weights = random_pairs(scales=SCALES, dtype=torch.float32)
    with torch.no_grad():
        pairs[0].B[:, 0] = pairs[0].B[:, 1]
    give_gradients(pairs[0], weights[0])
    rule = LoRAProRule(pairs, 1e-3)
    rule.before_step()
    assert rule.stepped_plainly() == []
    assert grad(pairs[0].A).isfinite().all()
    assert grad(pairs[0].B).isfinite().all()


def weight_gradient(A: Tensor, B: Tensor) -> Tensor:
    X, target = problem()[:2]
    return (2 * (SCALE * X @ A.T @ B.T - target) / target.numel()).T @ X


def train(pair: FactorPair, optimizer: torch.optim.Optimizer, steps: int) -> list[Tensor]:
    """BA after every step."""
    X, target = problem()[:2]
    products = []
    for _ in range(steps):
        optimizer.zero_grad()
        (pair.scale * X @ pair.A.T @ pair.B.T - target).square().mean().backward()
        optimizer.step()
        products.append((pair.B @ pair.A).detach())
    return products


def groups(pair: FactorPair, rate: float = RATE, decay: float = 0.0) -> list[dict[str, object]]:
    return [{"params": [pair.A, pair.B], "lr": rate, "weight_decay": decay}]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_twenty_steps_follow_the_formula(kind: str) -> None:
    """From B = 0, against hand-written optimizers in float64."""
    _, _, A, B = problem()
    pair = pair_of(A, B, scale=SCALE)
    rule = LoRAProRule([pair], 0.0)
    train(pair, PairAdamW(groups(pair), rule) if kind == "adamw" else PairSGD(groups(pair), rule, 0.0), 20)
    adam_A, adam_B = HandAdam(RATE), HandAdam(RATE)
    for _ in range(20):
        uA, uB = closest(A, B, weight_gradient(A, B))
        A, B = (adam_A(A, uA), adam_B(B, uB)) if kind == "adamw" else (A - RATE * uA, B - RATE * uB)
    assert relative(pair.A.detach(), A) < 1e-6
    assert relative(pair.B.detach(), B) < 1e-6


def test_twenty_dense_steps_follow_the_formula_with_decay_and_a_rate_for_each_factor() -> None:
    _, _, A, B = problem()
    pair = pair_of(A, B, scale=SCALE)
    rates, decay = (RATE, 2 * RATE), 0.1
    own = [{"params": [f], "lr": rate, "weight_decay": decay} for f, rate in zip((pair.A, pair.B), rates, strict=True)]
    train(pair, DenseLoRAProMember(own, [pair], 0.0), 20)
    M = V = torch.zeros(8, 6, dtype=torch.float64)
    for t in range(1, 21):
        uA, uB = closest(A, B, weight_gradient(A, B))
        G = SCALE * (B @ uA + uB @ A)
        M, V = 0.9 * M + 0.1 * G, 0.999 * V + 0.001 * G**2
        D = (M / (1 - 0.9**t)) / ((V / (1 - 0.999**t)).sqrt() + 1e-8)
        assert t > 1 or D.abs().max().item() == pytest.approx(1.0, abs=1e-4)  # 0.74 in the authors' code
        uA, uB = closest(A, B, D)
        A = (1 - rates[0] * decay) * A - rates[0] * uA
        B = (1 - rates[1] * decay) * B - rates[1] * uB
    assert relative(pair.A.detach(), A) < 1e-6
    assert relative(pair.B.detach(), B) < 1e-6


@pytest.mark.parametrize("kind", ["sgd", "dense"])
def test_at_a_small_rate_ba_goes_alike_from_other_factors(kind: str) -> None:
    """To the first order in the rate; LoRA's path under the same optimizer parts. Rates are those of the weight."""
    _, _, A, _ = problem()
    g = torch.Generator().manual_seed(5)
    B, T = 0.1 * conditioned(8, 3, 3.0, g), conditioned(3, 3, 20.0, g)
    paths: dict[str, list[Tensor]] = {"lora": [], "lora-pro": []}
    for own in ((A, B), (torch.linalg.solve(T, A), B @ T)):
        for name, found in paths.items():
            pair = pair_of(*own, scale=SCALE)
            rule = LoRAProRule([pair], 0.0) if name == "lora-pro" else PlainRule()
            optimizer: torch.optim.Optimizer = PairSGD(groups(pair, 1e-4), rule, 0.0)
            if kind == "dense":
                member = DenseLoRAProMember(groups(pair, 1e-5), [pair], 0.0)
                optimizer = member if name == "lora-pro" else PairAdamW(groups(pair, 1e-5), PlainRule())
            found.append(train(pair, optimizer, 20)[-1] - B @ A)
    assert relative(*paths["lora-pro"]) < 0.01
    assert relative(*paths["lora"]) > 0.1


def partition(pairs: Sequence[FactorPair], head: nn.Parameter) -> Partition:
    factors = [factor for pair in pairs for factor in (pair.A, pair.B)]
    dense = DenseLoRAProMember([{"params": factors, "lr": RATE, "weight_decay": 0.1}], pairs, 1e-3)
    return Partition([dense, AdamWMember([{"params": [head], "lr": RATE, "weight_decay": 0.0}])], PlainRule())


@pytest.mark.parametrize("way", ["tensors", "state_dict"])
def test_dense_training_that_is_continued_equals_one_that_was_not_stopped(way: str) -> None:
    """A pair that has no gradient in some steps, and one that has none before the stop, included."""
    found = []
    for stops in (False, True):
        pairs, weights = random_pairs(scales=SCALES, dtype=torch.float32)
        head = nn.Parameter(torch.ones(4))
        named = {f"{pair.name}.{key}": getattr(pair, key) for pair in pairs for key in ("A", "B")} | {"head": head}
        optimizer = partition(pairs, head)
        for step in range(6):
            if stops and step == 3:
                saved = optimizer.tensors(named) if way == "tensors" else optimizer.state_dict()
                optimizer = partition(pairs, head)
                if way == "tensors":
                    optimizer.load_tensors(named, saved)
                else:
                    optimizer.load_state_dict(saved)
            optimizer.zero_grad()
            head.grad = head.detach().cos()
            for n, (pair, G) in enumerate(zip(pairs, weights, strict=True)):
                if (n, step % 2) != (1, 1) and (n > 0 or step >= 3):
                    give_gradients(pair, G + pair.B.detach() @ pair.A.detach())
            before = pairs[1].A.detach().clone()
            optimizer.step()
            assert torch.equal(before, pairs[1].A) == (step % 2 == 1)
        found.append([factor.detach() for factor in named.values()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_dense_state_is_two_matrices_of_the_size_of_the_weight() -> None:
    pairs, _ = random_pairs(scales=SCALES, dtype=torch.float32)
    member = DenseLoRAProMember(
        [{"params": [pair.A, pair.B], "lr": RATE, "weight_decay": 0.0} for pair in pairs], pairs, 0.0
    )
    member.step()
    for pair, (out, width, _) in zip(pairs, SHAPES, strict=True):
        kept = {key: own for key, own in member.state[pair.A].items() if isinstance(own, Tensor)}
        assert {key: (own.shape, own.dtype) for key, own in kept.items()} == {
            "exp_avg": ((out, width), torch.float32),
            "exp_avg_sq": ((out, width), torch.float32),
        }
        assert member.state[pair.B] == {"step": 1}
