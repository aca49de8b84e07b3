"""Steps of orthonormal frames against their formulas in float64, and against what they must keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from reflora_cli.methods.method import Method
from reflora_cli.methods.settings import Optimizer
from reflora_cli.methods.updates import StiefelUpdate
from reflora_cli.optim.build import Rates, build_optimizer, build_rule, stiefel_rule
from reflora_cli.optim.pair_adamw import PairAdamW
from reflora_cli.optim.partition import Partition
from reflora_cli.optim.roles import Roles
from reflora_cli.optim.stiefel import Retraction, StiefelRule, by_geodesic, by_polar, commonest_height
from reflora_cli.training.prepare import roles_in
from tests.models import HEADS, MODELS, injected, make

SHAPES = [(12, 3), (3, 20), (20, 3), (3, 3), (12, 3), (9, 2)]
"""Upright and wide ones, a square one, two of equal shapes, and one of another rank."""
WIDTH, RATE, STEPS = 12.0, 0.02, 20
RETRACTIONS = pytest.mark.parametrize("retract", [by_polar, by_geodesic], ids=["polar", "geodesic"])


def orthonormal(shape: tuple[int, int], generator: torch.Generator) -> nn.Parameter:
    m, r = max(shape), min(shape)
    Q = torch.linalg.qr(torch.randn(m, r, dtype=torch.float64, generator=generator))[0].float()
    return nn.Parameter((Q if shape == (m, r) else Q.T).contiguous())


def made(seed: int = 0) -> tuple[list[nn.Parameter], list[Tensor]]:
    """Frames, and the matrix near which the loss of each wants it to be."""
    generator = torch.Generator().manual_seed(seed)
    frames = [orthonormal(shape, generator) for shape in SHAPES]
    return frames, [torch.randn(shape, generator=generator) for shape in SHAPES]


def adamw(
    frames: Sequence[nn.Parameter], retract: Retraction, width: float | None = WIDTH, rate: float = RATE
) -> PairAdamW:
    groups = [{"params": list(frames), "lr": rate, "weight_decay": 0.0}]
    return PairAdamW(groups, StiefelRule(frames, width, retract))


def step(optimizer: Partition, frames: Sequence[nn.Parameter], wanted: Sequence[Tensor]) -> None:
    for frame, own in zip(frames, wanted, strict=True):
        frame.grad = (frame.detach() - own) * (1 + frame.detach().square())
    optimizer.step()


def defect(frame: Tensor) -> float:
    X = (frame if frame.shape[0] >= frame.shape[1] else frame.T).detach().double()
    return float((X.T @ X - torch.eye(X.shape[1])).abs().max())


Array = np.ndarray


def to_nearest(X: Array, D: Array) -> Array:
    return scipy.linalg.polar(X + D)[0]


def along_geodesic(X: Array, D: Array) -> Array:
    """The geodesic of the canonical metric as a rotation of the whole space, an m x m matrix: nothing is factored."""
    m = X.shape[0]
    P = np.eye(m) - X @ X.T / 2
    W = P @ D @ X.T
    return scipy.linalg.expm(W - W.T) @ X


def reference(start: Array, wanted: Array, back: Callable[[Array, Array], Array]) -> Array:
    """Twenty steps of one frame by the formulas, in float64: AdamW, and around it the manifold."""
    X, m1, m2 = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for t in range(1, STEPS + 1):
        G = (X - wanted) * (1 + X * X)
        R = G - X @ G.T @ X
        m1, m2 = 0.9 * m1 + 0.1 * R, 0.999 * m2 + 0.001 * R * R
        D = -RATE * (m1 / (1 - 0.9**t)) / (np.sqrt(m2 / (1 - 0.999**t)) + 1e-8)
        D = D * math.sqrt(WIDTH / X.shape[0])
        D = D - X @ (X.T @ D + D.T @ X) / 2
        X = back(X, D)
    return X


@pytest.mark.parametrize(
    ("retract", "back"), [(by_polar, to_nearest), (by_geodesic, along_geodesic)], ids=["polar", "geodesic"]
)
def test_twenty_steps_follow_the_formulas(retract: Retraction, back: Callable[[Array, Array], Array]) -> None:
    frames, wanted = made()
    began = [own.detach().clone() for own in frames]
    optimizer = adamw(frames, retract)
    for _ in range(STEPS):
        step(optimizer, frames, wanted)
    for frame, start, own in zip(frames, began, wanted, strict=True):
        X, near = (upright(each.double()).numpy() for each in (start, own))
        expected = torch.from_numpy(reference(X, near, back))
        assert (expected - upright(start.double())).abs().max() > 0.05
        torch.testing.assert_close(upright(frame.detach().double()), expected, atol=1e-5, rtol=0)


def upright(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T


@RETRACTIONS
@pytest.mark.parametrize("rate", [1e-3, 0.3])
def test_frames_are_orthonormal_after_every_step(rate: float, retract: Retraction) -> None:
    frames, wanted = made()
    optimizer = adamw(frames, retract, rate=rate)
    for _ in range(60):
        step(optimizer, frames, wanted)
        assert max(map(defect, frames)) < 1e-6


@RETRACTIONS
def test_rounding_does_not_add_up(retract: Retraction) -> None:
    frames, wanted = made()
    optimizer = adamw(frames, retract, rate=0.05)
    for _ in range(2000):
        step(optimizer, frames, wanted)
    assert max(map(defect, frames)) < 1e-6


def test_without_the_rule_frames_leave_the_manifold() -> None:
    frames, wanted = made()
    optimizer = build_optimizer(
        Method(name="stella", update="plain"), Roles([], frames=named(frames)), Rates(RATE, None, 0.1)
    )
    for _ in range(STEPS):
        step(optimizer, frames, wanted)
    assert min(map(defect, frames)) > 0.05


def named(frames: Sequence[nn.Parameter]) -> dict[str, nn.Parameter]:
    return {f"frame{n}": frame for n, frame in enumerate(frames)}


def test_the_gradient_becomes_tangent_and_descends() -> None:
    frames, wanted = made()
    rule = StiefelRule(frames, None, by_polar)
    for frame, own in zip(frames, wanted, strict=True):
        frame.grad = frame.detach() - own
    before = [upright(frame.grad.double()) for frame in frames if frame.grad is not None]
    rule.before_step()
    for frame, G in zip(frames, before, strict=True):
        assert frame.grad is not None
        X, R = upright(frame.detach().double()), upright(frame.grad.double())
        assert (X.T @ R + R.T @ X).abs().max() < 1e-5
        assert (G * R).sum() > 0


def test_frames_without_a_gradient_stay_and_those_that_did_not_move_too() -> None:
    frames, wanted = made()
    optimizer = adamw(frames, by_polar)
    step(optimizer, frames, wanted)
    before = [own.detach().clone() for own in frames]
    for number, frame in enumerate(frames):
        frame.grad = None if number == 1 else torch.zeros_like(frame)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert torch.equal(frames[1], before[1])
    assert max((own - old).abs().max() for own, old in zip(frames, before, strict=True)) < 1e-6


@pytest.mark.parametrize("width", [48.0, 3.0])
def test_steps_are_scaled_by_the_root_of_width_over_height(width: float) -> None:
    """To first order, for a step that is small."""
    moved = []
    for own_width in (None, width):
        frames, wanted = made()
        before = [own.detach().clone() for own in frames]
        step(adamw(frames, by_polar, own_width, rate=1e-4), frames, wanted)
        moved.append([own.detach() - old for own, old in zip(frames, before, strict=True)])
    for plain, scaled in zip(*moved, strict=True):
        expected = math.sqrt(width / max(plain.shape))
        assert float(scaled.norm() / plain.norm()) == pytest.approx(expected, rel=1e-2)


def test_nothing_is_remembered_and_nothing_else_is_restored() -> None:
    frames, _ = made()
    rule = StiefelRule(frames, None, by_polar)
    assert rule.tensors() == {}
    rule.load_tensors({})
    with pytest.raises(ValueError, match="unexpected steps"):
        rule.load_tensors({"steps": torch.tensor(1)})


@pytest.mark.parametrize("name", list(MODELS))
def test_the_width_is_the_hidden_size_or_the_commonest_height(name: str) -> None:
    model = make(name)
    adapted = injected(model, Method(name="stella", rank=2), HEADS[name], HEADS[name])
    frames = list(roles_in(adapted).frames.values())
    assert len(frames) == 2 * len(adapted.layers)
    assert commonest_height(frames) == model.config.hidden_size
    assert stiefel_rule(StiefelUpdate(), frames, 999)._width == 999
    assert stiefel_rule(StiefelUpdate(), frames, None)._width == model.config.hidden_size
    assert stiefel_rule(StiefelUpdate(width="none"), frames, 999)._width is None
    assert stiefel_rule(StiefelUpdate(width=5), frames, 999)._width == 5
    assert isinstance(build_rule(StiefelUpdate(), roles_in(adapted)), StiefelRule)
    assert commonest_height([]) is None


def test_gradient_descent_becomes_riemannian_too() -> None:
    frames, wanted = made()
    rates = Rates(0.05, None, 0.0, Optimizer.SGD, 0.9)
    optimizer = build_optimizer(Method(name="stella"), Roles([], frames=named(frames)), rates)
    before = sum(float((own - near).detach().square().sum()) for own, near in zip(frames, wanted, strict=True))
    for _ in range(STEPS):
        step(optimizer, frames, wanted)
    after = sum(float((own - near).detach().square().sum()) for own, near in zip(frames, wanted, strict=True))
    assert after < before - 1
    assert max(map(defect, frames)) < 1e-6
