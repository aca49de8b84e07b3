"""RefLoRA's own computation, apart from the model: ours against the authors' way, module by module.

    python -m tests.benchmarks.reflora_step [--settings deberta llama7b square] [--rounds 9] [--device cpu]

The authors' way is written here as their code does it: for every module two symmetric eigendecompositions in the
factors' own float32, the square roots and inverses they give, then two products with the gradients. `error` is the
largest relative error of the preconditioned gradients against float64 without damping, for well-conditioned factors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reflora_cli.console.output import show_table
from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.reflora import RefLoRARule

H, F7 = 4096, 11008
SETTINGS: dict[str, tuple[int, list[tuple[int, int]]]] = {
    # rank, (out, in) of every module
    "deberta": (8, [(768, 768)] * 48 + [(3072, 768)] * 12 + [(768, 3072)] * 12),
    "llama7b": (32, [(H, H)] * 96 + [(F7, H)] * 32 + [(H, F7)] * 32),
    "square": (64, [(1024, 1024)] * 160),
}
Gradients = tuple[Tensor, Tensor]
"""Of A [r, in] and of B [out, r]."""


@dataclass(frozen=True)
class Found:
    """Seconds of every round, and the error of the last."""

    seconds: list[float]
    error: float


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.reflora_step", description=__doc__)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def make_pairs(setting: str, device: str) -> tuple[list[FactorPair], list[Gradients]]:
    rank, shapes = SETTINGS[setting]
    generator = torch.Generator().manual_seed(0)
    pairs, gradients = [], []
    for number, (out, width) in enumerate(shapes):
        A = torch.randn(rank, width, generator=generator) / width**0.5
        B = torch.randn(out, rank, generator=generator) * 1e-2
        pairs.append(FactorPair(f"m{number}", nn.Parameter(A.to(device)), nn.Parameter(B.to(device)), 1.0))
        gradients.append((torch.randn_like(pairs[-1].A) * 1e-3, torch.randn_like(pairs[-1].B) * 1e-3))
    return pairs, gradients


def metric(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """S = GA^-1/2 (GA^1/2 GB GA^1/2)^1/2 GA^-1/2 and its inverse, in the precision of the factors."""
    half, inverse_half = roots(A @ A.T)
    middle, inverse_middle = roots(half @ (B.T @ B) @ half)
    return inverse_half @ middle @ inverse_half, half @ inverse_middle @ half


def roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of a positive definite matrix and its inverse, by an eigendecomposition."""
    values, vectors = torch.linalg.eigh(matrix)
    sigma = values.sqrt()
    return vectors @ torch.diag(sigma) @ vectors.T, vectors @ torch.diag(1 / sigma) @ vectors.T


@torch.no_grad()
def one_by_one(pairs: Sequence[FactorPair]) -> None:
    """The authors' way."""
    for pair in pairs:
        S, S_inverse = metric(pair.A, pair.B)
        gA, gB = given(pair)
        gA.copy_(S_inverse @ gA)
        gB.copy_(gB @ S)


def given(pair: FactorPair) -> Gradients:
    """The pair's gradients, which are there."""
    gA, gB = pair.A.grad, pair.B.grad
    assert gA is not None
    assert gB is not None
    return gA, gB


@torch.no_grad()
def exact(pair: FactorPair, gradients: Gradients) -> Gradients:
    S, S_inverse = metric(pair.A.double(), pair.B.double())
    return S_inverse @ gradients[0].double(), gradients[1].double() @ S


def worst(pairs: Sequence[FactorPair], expected: Sequence[Gradients]) -> float:
    return max(
        float((found.double() - right).norm() / right.norm())
        for pair, rights in zip(pairs, expected, strict=True)
        for found, right in zip(given(pair), rights, strict=True)
    )


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device != "cpu":
        torch.accelerator.synchronize()


def measure(setting: str, rounds: int, device: str) -> dict[str, Found]:
    """Both ways in turn, on the same gradients."""
    pairs, gradients = make_pairs(setting, device)
    sample = pairs[:4]
    expected = [exact(pair, own) for pair, own in zip(sample, gradients[:4], strict=True)]
    rule = RefLoRARule(pairs, warmup=0, interval=1, damping=1e-3)
    ways: dict[str, Callable[[], None]] = {"one by one": lambda: one_by_one(pairs), "reflora": rule.before_step}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    errors: dict[str, float] = {}
    for _ in range(rounds + 1):
        for name, work in ways.items():
            for pair, (gA, gB) in zip(pairs, gradients, strict=True):
                pair.A.grad, pair.B.grad = gA.clone(), gB.clone()
            wait(device)
            begin = time.perf_counter()
            work()
            wait(device)
            seconds[name].append(time.perf_counter() - begin)
            errors[name] = worst(sample, expected)
    return {name: Found(own[1:], errors[name]) for name, own in seconds.items()}  # the first round warms up


def main() -> None:
    chosen = arguments()
    rows, figures = [], {}
    for setting in chosen.settings:
        found = measure(setting, chosen.rounds, chosen.device)
        slowest = statistics.median(found["one by one"].seconds)
        for name, own in found.items():
            median = statistics.median(own.seconds)
            spread = f"{1e3 * min(own.seconds):.2f} to {1e3 * max(own.seconds):.2f}"
            rows.append((setting, name, f"{1e3 * median:.2f}", spread, f"{slowest / median:.2f}", f"{own.error:.1e}"))
        figures[setting] = {name: {"seconds": own.seconds, "error": own.error} for name, own in found.items()}
    columns = ("modules", "way", "ms", "spread", "times faster", "error")
    show_table(f"RefLoRA's computation, {torch.get_num_threads()} threads, {chosen.device}", columns, rows)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
