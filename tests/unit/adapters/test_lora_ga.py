"""LoRA-GA's start: its theorem in float64, and where PEFT differs."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import Tensor, nn

from reflora_cli.adapters.lora_ga import gradient_pair
from reflora_cli.methods.starts import LoRAGAStart

OUT, IN = 20, 12


def gradient() -> Tensor:
    """A matrix whose singular values fall by a factor of 1000."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(OUT, IN, generator=generator)
    return rows * torch.logspace(0, -3, IN)


def pair(G: Tensor, rank: int, **choice: float | int) -> tuple[Tensor, Tensor]:
    A, B = gradient_pair(G, rank, LoRAGAStart.model_validate(choice), torch.Generator().manual_seed(0))
    return A.double(), B.double()


def best(G: Tensor, rank: int) -> Tensor:
    U, sigma, V = torch.linalg.svd(G.double(), full_matrices=False)
    return U[:, :rank] * sigma[:rank] @ V[:rank]


@pytest.mark.parametrize("shape", [(OUT, IN), (IN, OUT)])
@pytest.mark.parametrize("iterations", [None, 8])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_first_step_is_the_best_one_of_rank_2r(shape: tuple[int, int], iterations: int | None, rank: int) -> None:
    """With loss <G, W + s B A> in float64: gradients by autograd, and what a step along them does to s B A."""
    G = gradient() if shape == (OUT, IN) else gradient().T.contiguous()
    A, B = pair(G, rank, iterations=iterations)
    s, rate = 3.0, 1e-9
    A.requires_grad_(True)
    B.requires_grad_(True)
    (s * (G.double() * (B @ A)).sum()).backward()
    with torch.no_grad():
        moved = s * ((B - rate * B.grad) @ (A - rate * A.grad) - B @ A) / -rate
        c = shape[0] ** 0.25 / 64**0.5
        torch.testing.assert_close(moved, s**2 * c**2 * best(G, 2 * rank), rtol=1e-4, atol=1e-4)


def test_sizes_are_stable_and_vectors_disjoint() -> None:
    A, B = pair(gradient(), 4, gamma=16.0)
    c2 = OUT**0.5 / 16
    torch.testing.assert_close(A @ A.T, c2 * torch.eye(4, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(B.T @ B, c2 * torch.eye(4, dtype=torch.float64), atol=1e-6, rtol=0)
    assert (B.T @ best(gradient(), 4)).norm() < 1e-5 * best(gradient(), 4).norm()


def test_more_than_half_of_all_ranks_take_what_there_is() -> None:
    A, B = pair(gradient(), 8)
    assert (A.shape, B.shape) == ((8, IN), (OUT, 8))
    assert torch.linalg.matrix_rank(B) == torch.linalg.matrix_rank(A) == 8


def test_pefts_first_step_hardly_moves_along_its_second_half() -> None:
    """It multiplies B by singular values and leaves A's size out: a gradient of 1 in 100 of the size loses more than
    999 in 1000 of the vectors that B holds. Ours takes both halves alike.
    """
    G, model = 0.01 * gradient(), nn.Sequential(nn.Linear(IN, OUT, bias=False))
    model[0]._peft_loraga_grad = G.clone()
    config = peft.LoraConfig(
        r=3, lora_alpha=3, target_modules=["0"], init_lora_weights="lora_ga", lora_ga_config=peft.LoraGAConfig()
    )
    theirs = peft.get_peft_model(model, config).base_model.model[0]
    A, B = (own["default"].weight.detach().double() for own in (theirs.lora_A, theirs.lora_B))
    halves = best(G, 3), best(G, 6) - best(G, 3)

    def taken(A: Tensor, B: Tensor) -> float:
        step = B @ B.T @ G.double() + G.double() @ A.T @ A
        first, second = (float((step * half).sum() / half.square().sum()) for half in halves)
        return second / first

    assert taken(*pair(G, 3)) == pytest.approx(1, abs=1e-3)
    assert taken(A, B) < 1e-3
