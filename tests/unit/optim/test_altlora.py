"""AltLoRA against its formulas: whose turn it is, the projected steps, moments that follow, and what its path sees."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim import stacks
from reflora_cli.optim.altlora import AltLoRAMember, BothMoments, FirstMoment, Moments
from reflora_cli.optim.pair_adamw import AdamWMember
from reflora_cli.optim.pair_sgd import PairSGD
from reflora_cli.optim.partition import Partition
from reflora_cli.optim.rule import PlainRule
from tests.unit.optim.references import SCALES, conditioned, give_gradients, pair_of, problem, random_pairs, relative

RATE, SCALE, DECAY = 1e-2, 4.0, 0.1
KINDS: dict[str, Moments] = {"first": FirstMoment(), "both": BothMoments()}


def groups(pairs: Sequence[FactorPair], rate: float = RATE, decay: float = 0.0) -> list[dict[str, object]]:
    """B has twice the rate of A where there is decay, which shows that each has its own."""
    ratio = 2 if decay else 1
    return [
        {"params": [pair.A for pair in pairs], "lr": rate, "weight_decay": decay},
        {"params": [pair.B for pair in pairs], "lr": ratio * rate, "weight_decay": decay},
    ]


@pytest.mark.parametrize("together", [True, False])
def test_the_first_two_steps_are_projections_of_the_weight_s_gradient_b_first(
    together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the scale of each pair, by pseudo-inverses; pair by pair as on a CPU, and stacked as on a GPU."""
    monkeypatch.setattr(stacks, "one_by_one", lambda device: not together)
    pairs, weights = random_pairs(scales=SCALES, condition=10.0)
    member = AltLoRAMember(groups(pairs), pairs, 0.0, FirstMoment(), betas=(0.0, 0.0))
    for turn in ("B", "A"):
        before = [(pair.A.detach().clone(), pair.B.detach().clone()) for pair in pairs]
        for pair, G in zip(pairs, weights, strict=True):
            give_gradients(pair, G)
        member.step()
        for pair, G, (A, B) in zip(pairs, weights, before, strict=True):
            moved = pair.scale * (pair.B.detach() @ pair.A.detach() - B @ A)
            projected = G @ torch.linalg.pinv(A) @ A if turn == "B" else B @ torch.linalg.pinv(B) @ G
            assert relative(moved, -RATE * projected) < 1e-8
            assert torch.equal(pair.A, A) == (turn == "B")
            assert torch.equal(pair.B, B) == (turn == "A")


def weight_gradient(A: Tensor, B: Tensor) -> Tensor:
    X, target = problem()[:2]
    return (2 * (SCALE * X @ A.T @ B.T - target) / target.numel()).T @ X


def train(pair: FactorPair, optimizer: torch.optim.Optimizer, steps: int) -> Tensor:
    """BA after these steps."""
    X, target = problem()[:2]
    for _ in range(steps):
        optimizer.zero_grad()
        (pair.scale * X @ pair.A.T @ pair.B.T - target).square().mean().backward()
        optimizer.step()
    return (pair.B @ pair.A).detach()


@pytest.mark.parametrize("kind", KINDS)
def test_twenty_steps_follow_the_formula_with_decay_and_a_rate_for_each_factor(kind: str) -> None:
    """From B = 0. The moment of the weight is kept whole here, s B M, and projected anew: no turning."""
    _, _, A, B = problem()
    pair = pair_of(A, B, scale=SCALE)
    train(pair, AltLoRAMember(groups([pair], decay=DECAY), [pair], 0.0, KINDS[kind]), 20)
    whole_A = whole_B = torch.zeros(8, 6, dtype=torch.float64)
    V_A, V_B = torch.zeros_like(A), torch.zeros_like(B)
    for step in range(20):
        G, t = weight_gradient(A, B), step // 2 + 1
        if step % 2 == 0:
            P = torch.linalg.pinv(A)
            M, u = (0.9 * whole_B + 0.1 * G) @ P / SCALE, G @ P / SCALE
            whole_B, V_B = SCALE * M @ A, 0.999 * V_B + 0.001 * u**2
            size = (V_B / (1 - 0.999**t)).sqrt() + 1e-8 if kind == "both" else 1.0
            B = (1 - 2 * RATE * DECAY) * B - 2 * RATE * M / (1 - 0.9**t) / size
        else:
            P = torch.linalg.pinv(B)
            M, u = P @ (0.9 * whole_A + 0.1 * G) / SCALE, P @ G / SCALE
            whole_A, V_A = SCALE * B @ M, 0.999 * V_A + 0.001 * u**2
            size = (V_A / (1 - 0.999**t)).sqrt() + 1e-8 if kind == "both" else 1.0
            A = (1 - RATE * DECAY) * A - RATE * M / (1 - 0.9**t) / size
    assert relative(pair.A.detach(), A) < 1e-6
    assert relative(pair.B.detach(), B) < 1e-6


def test_ba_goes_alike_from_all_of_its_factorizations_with_the_first_moment_alone() -> None:
    """Damping, momentum and decay included; with both moments it does not, and neither does gradient descent."""
    _, _, A, _ = problem()
    g = torch.Generator().manual_seed(5)
    B, T = 0.1 * conditioned(8, 3, 3.0, g), conditioned(3, 3, 20.0, g)
    paths: dict[str, list[Tensor]] = {"first": [], "both": [], "lora": []}
    for own in ((A, B), (torch.linalg.solve(T, A), B @ T)):
        for name, found in paths.items():
            pair = pair_of(*own, scale=SCALE)
            rate = 1e-4 if name == "lora" else 0.05  # it diverges at higher ones from the second factorization
            group = [{"params": [pair.A, pair.B], "lr": rate, "weight_decay": DECAY}]
            optimizer: torch.optim.Optimizer = PairSGD(group, PlainRule(), 0.9)
            if name in KINDS:
                optimizer = AltLoRAMember(group, [pair], 1e-2, KINDS[name])
            found.append(train(pair, optimizer, 20) - B @ A)
    assert relative(*paths["first"]) < 1e-9
    assert relative(*paths["both"]) > 0.1
    assert relative(*paths["lora"]) > 0.1


def test_a_moment_that_is_not_turned_depends_on_the_factorization() -> None:
    """What the authors' AltLoRA+ keeps: A's moment as it was with another B. A jump to other factors of the same BA
    between two steps of A is followed by ours, whose moment of the weight stays."""
    _, _, A, _ = problem()
    g = torch.Generator().manual_seed(6)
    B, T = conditioned(8, 3, 3.0, g), conditioned(3, 3, 20.0, g)
    G = torch.randn(8, 6, dtype=torch.float64, generator=g)
    pair = pair_of(A, B, scale=SCALE)
    member = AltLoRAMember(groups([pair]), [pair], 0.0, FirstMoment())
    for _ in range(4):
        give_gradients(pair, G)
        member.step()
    kept = member.state[pair.A]["exp_avg"].clone()
    with torch.no_grad():
        other = pair_of(torch.linalg.solve(T, pair.A), pair.B @ T, scale=SCALE)
        pair.A.copy_(other.A), pair.B.copy_(other.B)
    before = pair.scale * pair.B.detach() @ torch.linalg.solve(T, kept)
    give_gradients(pair, G)
    member.step()
    give_gradients(pair, torch.zeros_like(G))
    P = pair.B.detach() @ torch.linalg.pinv(pair.B.detach())
    member.step()
    moment = pair.scale * pair.B.detach() @ member.state[pair.A]["exp_avg"]
    assert relative(moment, 0.9 * P @ before) < 1e-8
    assert relative(pair.scale * pair.B.detach() @ kept, before) > 0.1


def test_at_zero_b_moves_and_then_a() -> None:
    _, _, A, B = problem()
    pair = pair_of(A, B, scale=SCALE)
    member = AltLoRAMember(groups([pair]), [pair], 1e-3, FirstMoment())
    train(pair, member, 1)
    assert torch.equal(pair.A, A)
    assert pair.B.any()
    train(pair, member, 1)
    assert not torch.equal(pair.A, A)


@pytest.mark.parametrize("kind", KINDS)
def test_a_ba_of_lower_rank_and_a_neighbour_that_is_not_finite_have_finite_steps(kind: str) -> None:
    pairs, weights = random_pairs(scales=SCALES, condition=10.0, dtype=torch.float32)
    with torch.no_grad():
        pairs[0].B[:, 0] = pairs[0].B[:, 1]
        pairs[1].B[0, 0] = torch.nan
    member = AltLoRAMember(groups(pairs), pairs, 1e-3, KINDS[kind])
    for _ in range(4):
        for pair, G in zip(pairs, weights, strict=True):
            give_gradients(pair, G)
        member.step()
    for n, pair in enumerate(pairs):
        assert n == 1 or (pair.A.isfinite().all() and pair.B.isfinite().all())
    # B takes up the direction that BA did not have.
    assert torch.linalg.svdvals(pairs[0].B.detach())[-1] > 1e-3


def partition(pairs: Sequence[FactorPair], head: nn.Parameter, kind: str) -> Partition:
    member = AltLoRAMember(groups(pairs, decay=DECAY), pairs, 1e-3, KINDS[kind])
    return Partition([member, AdamWMember([{"params": [head], "lr": RATE, "weight_decay": 0.0}])], PlainRule())


@pytest.mark.parametrize("way", ["tensors", "state_dict"])
@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_training_that_is_continued_equals_one_that_was_not_stopped(kind: str, stop: int, way: str) -> None:
    """In every turn. A pair that has no gradient in some steps, and one that has none before the stop, included: its
    turns are its own."""
    found = []
    for stops in (False, True):
        pairs, weights = random_pairs(scales=SCALES, condition=10.0, dtype=torch.float32)
        head = nn.Parameter(torch.ones(4))
        named = {f"{pair.name}.{key}": getattr(pair, key) for pair in pairs for key in ("A", "B")} | {"head": head}
        optimizer = partition(pairs, head, kind)
        for step in range(7):
            if stops and step == stop:
                saved = optimizer.tensors(named) if way == "tensors" else optimizer.state_dict()
                optimizer = partition(pairs, head, kind)
                if way == "tensors":
                    optimizer.load_tensors(named, saved)
                else:
                    optimizer.load_state_dict(saved)
            optimizer.zero_grad()
            head.grad = head.detach().cos()
            for n, (pair, G) in enumerate(zip(pairs, weights, strict=True)):
                if (n, step % 2) != (1, 1) and (n > 0 or step >= 3):
                    give_gradients(pair, G + pair.B.detach() @ pair.A.detach())
            before = pairs[1].A.detach().clone(), pairs[1].B.detach().clone()
            optimizer.step()
            still = torch.equal(before[0], pairs[1].A), torch.equal(before[1], pairs[1].B)
            assert still == {0: (True, False), 2: (False, True)}.get(step % 4, (True, True))
        found.append([factor.detach() for factor in named.values()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(("kind", "copies"), [("first", 1), ("both", 2)])
def test_the_state_is_a_copy_of_the_other_factor_and_one_or_two_moments(kind: str, copies: int) -> None:
    pairs, weights = random_pairs(scales=SCALES, condition=10.0, dtype=torch.float32)
    member = AltLoRAMember(groups(pairs), pairs, 0.0, KINDS[kind])
    for _ in range(2):
        for pair, G in zip(pairs, weights, strict=True):
            give_gradients(pair, G)
        member.step()
    for pair in pairs:
        for own, other in ((pair.A, pair.B), (pair.B, pair.A)):
            kept = [value for value in member.state[own].values() if isinstance(value, Tensor)]
            assert sum(value.numel() for value in kept) == copies * own.numel() + other.numel()
            assert {value.dtype for value in kept} == {torch.float32}
