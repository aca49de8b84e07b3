"""The rules' limiting cases: where they must equal something simpler, with Adam behind them or without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.altlora import AltLoRAMember, FirstMoment
from reflora_cli.optim.lora_pro import LoRAProRule
from reflora_cli.optim.pair_adamw import PairAdamW
from reflora_cli.optim.pair_sgd import PairSGD
from reflora_cli.optim.reflora import RefLoRARule
from reflora_cli.optim.rule import PlainRule, UpdateRule
from reflora_cli.optim.scaled_gd import ScaledGDRule
from tests.unit.optim.references import HandAdam, conditioned, grad, pair_of, paper_metric, relative


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def regression(seed: int = 3, out: int = 8, rank: int = 3, inputs: int = 6, rows: int = 40) -> tuple[Tensor, ...]:
    """X [rows, in], a target [rows, out] of a weight of full rank, and A, B to start from, in float64."""
    g = generator(seed)
    X = torch.randn(rows, inputs, dtype=torch.float64, generator=g)
    target = X @ torch.randn(inputs, out, dtype=torch.float64, generator=g)
    return X, target, conditioned(rank, inputs, 2.0, g), 0.3 * conditioned(out, rank, 5.0, g)


def loss_of(X: Tensor, target: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return (X @ A.T @ B.T - target).square().mean()


def train(pair: FactorPair, rule: UpdateRule, steps: int, eps: float = 1e-8) -> None:
    """Adam at a rate of 1e-2 on the regression, in the precision of the factors."""
    X, target = (tensor.to(pair.A.dtype) for tensor in regression()[:2])
    optimizer = PairAdamW([{"params": [pair.A, pair.B], "lr": 1e-2, "weight_decay": 0.0}], rule, eps=eps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(X, target, pair.A, pair.B).backward()
        optimizer.step()


def test_twenty_steps_follow_the_paper_s_closed_form() -> None:
    """Float32 factors with damping 1e-6 against S = GA^-1/2 (...)^1/2 GA^-1/2 and a hand-written Adam, in float64.

    Five plain steps and twenty preconditioned ones; measured deviation 3e-7.
    """
    X, target, A, B = regression()
    pair = pair_of(A.float(), B.float())
    train(pair, RefLoRARule([pair], 5, 1, 1e-6), 25)
    adam_A, adam_B = HandAdam(1e-2), HandAdam(1e-2)
    for step in range(25):
        residual = 2 * (X @ A.T @ B.T - target) / target.numel()
        gA, gB = B.T @ residual.T @ X, residual.T @ X @ A.T
        if step >= 5:
            S, S_inverse = paper_metric(A, B)
            gA, gB = S_inverse @ gA, gB @ S
        A, B = adam_A(A, gA), adam_B(B, gB)
    assert relative(pair.A.detach(), A) < 1e-5
    assert relative(pair.B.detach(), B) < 1e-5


def test_a_constant_diagonal_s_does_nothing_under_adam() -> None:
    """Adam without epsilon is blind to constant scales of its gradients: only the mixing in S acts, and its change.

    A with orthogonal rows and B with orthogonal columns have a diagonal S, here 1e-3, 2 and 500, which scales the
    gradients; a long interval keeps it.
    """
    g, diagonal = generator(), torch.tensor([1e-3, 2.0, 500.0], dtype=torch.float64)
    A, B = conditioned(3, 6, 1.0, g), conditioned(8, 3, 1.0, g) * diagonal
    first, plain, scaled = (pair_of(A, B) for _ in range(3))
    first.A.grad, first.B.grad = torch.ones_like(A), torch.ones_like(B)
    RefLoRARule([first], 0, 1000, 0.0).before_step()
    torch.testing.assert_close(grad(first.A), torch.ones_like(A) / diagonal[:, None], rtol=1e-9, atol=0)
    torch.testing.assert_close(grad(first.B), torch.ones_like(B) * diagonal, rtol=1e-9, atol=0)
    train(plain, PlainRule(), 30, eps=0.0)
    train(scaled, RefLoRARule([scaled], 0, 1000, 0.0), 30, eps=0.0)
    assert relative(scaled.A.detach() - A, plain.A.detach() - A) < 1e-9
    assert relative(scaled.B.detach() - B, plain.B.detach() - B) < 1e-9


def test_a_warmup_that_is_never_left_is_plain_lora() -> None:
    A, B = regression()[2:]
    plain, warming = pair_of(A, B), pair_of(A, B)
    train(plain, PlainRule(), 10)
    train(warming, RefLoRARule([warming], 10, 1, 1e-3), 10)
    assert torch.equal(plain.A, warming.A)
    assert torch.equal(plain.B, warming.B)


def test_balanced_factors_take_a_plain_first_step() -> None:
    """Where GA = GB, S is the identity: RefLoRA after a balanced start changes nothing at first."""
    g = generator()
    U, V = conditioned(12, 4, 20.0, g), conditioned(10, 4, 1.0, g)
    left, sigma, right = torch.linalg.svd(U @ V.T)
    root = sigma[:4].sqrt()
    pair = pair_of(root[:, None] * right[:4], left[:, :4] * root)
    (pair.B @ pair.A).square().sum().backward()
    gA, gB = grad(pair.A).clone(), grad(pair.B).clone()
    RefLoRARule([pair], 0, 1, 0.0).before_step()
    torch.testing.assert_close(pair.A.grad, gA, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(pair.B.grad, gB, rtol=1e-9, atol=1e-12)


def test_equals_the_scalar_rule_at_rank_one() -> None:
    """For r = 1 the full S is ||B|| / ||A||, that of RefLoRA-S."""
    pair = pair_of(torch.full((1, 10), 0.2), torch.full((12, 1), 3.0))
    pair.B.grad = torch.ones(12, 1)
    RefLoRARule([pair], 0, 1, 0.0).before_step()
    assert pair.B.grad[0].item() == pytest.approx((pair.B.norm() / pair.A.norm()).item(), rel=1e-6)


def test_scaled_gd_divides_by_squared_norms_at_rank_one() -> None:
    pair = pair_of(torch.full((1, 10), 0.2), torch.full((12, 1), 3.0))
    pair.A.grad, pair.B.grad = torch.ones(1, 10), torch.ones(12, 1)
    ScaledGDRule([pair], 0, 1, 0.0).before_step()
    torch.testing.assert_close(pair.A.grad, torch.full((1, 10), 1 / 108))
    torch.testing.assert_close(pair.B.grad, torch.full((12, 1), 1 / 0.4))


def test_scaled_gd_steps_plainly_from_orthonormal_factors() -> None:
    """Both Gram matrices are the identity there, and damping shrinks all directions alike."""
    A, B = conditioned(3, 10, 1.0, generator()), conditioned(12, 3, 1.0, generator(1))
    for damping in (0.0, 1e-4, 0.1):
        pair = pair_of(A, B)
        pair.A.grad, pair.B.grad = torch.ones_like(A), torch.ones_like(B)
        ScaledGDRule([pair], 0, 1, damping).before_step()
        torch.testing.assert_close(pair.A.grad, torch.ones_like(A) / (1 + damping**2), rtol=1e-5, atol=0)
        torch.testing.assert_close(pair.B.grad, torch.ones_like(B) / (1 + damping**2), rtol=1e-5, atol=0)


def test_with_factors_as_wide_as_the_weight_lora_pro_steps_as_the_weight_would() -> None:
    """At r = in every step of the weight is one of the factors, to first order."""
    g = generator()
    A, B = conditioned(6, 6, 10.0, g), conditioned(8, 6, 10.0, g)
    pair = pair_of(A, B)
    G = torch.randn(8, 6, dtype=torch.float64, generator=g)
    pair.A.grad, pair.B.grad = B.T @ G, G @ A.T
    LoRAProRule([pair], 0.0).before_step()
    torch.testing.assert_close(B @ grad(pair.A) + grad(pair.B) @ A, G, rtol=1e-9, atol=1e-10)


def test_without_momentum_altlora_is_scaled_gd_with_one_factor_at_a_time() -> None:
    g = generator()
    A, B = conditioned(3, 6, 5.0, g), conditioned(8, 3, 5.0, g)
    G = torch.randn(8, 6, dtype=torch.float64, generator=g)
    group = {"lr": 0.1, "weight_decay": 0.0}
    pair = pair_of(A, B)
    member = AltLoRAMember([{"params": [pair.A, pair.B], **group}], [pair], 0.0, FirstMoment(), betas=(0.0, 0.0))
    for turn in ("B", "A"):
        other = pair_of(pair.A.detach(), pair.B.detach())
        for own in (pair, other):
            own.A.grad, own.B.grad = own.B.detach().T @ G, G @ own.A.detach().T
        PairSGD([{"params": [other.A, other.B], **group}], ScaledGDRule([other], 0, 1, 0.0), 0.0).step()
        member.step()
        torch.testing.assert_close(getattr(pair, turn), getattr(other, turn), rtol=1e-9, atol=1e-12)
