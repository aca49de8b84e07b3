"""RefLoRA's gradient map: what it computes, when it acts, and what a resumed run remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from reflora_cli.factors import linalg
from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim import stacks
from reflora_cli.optim.reflora import RefLoRARule
from reflora_cli.optim.rule import UpdateRule
from tests.unit.optim.references import conditioned, grad, metric_by_svd, metric_of, pair_of, paper_metric

SHAPES = [(12, 10, 3), (12, 10, 3), (10, 12, 3), (12, 10, 5), (12, 10, 3), (7, 9, 1)]
"""(out, in, r): two ranks that occur several times, unlike shapes, and a rank of one."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_pairs(
    shapes: Sequence[tuple[int, int, int]] = SHAPES, dtype: torch.dtype = torch.float32
) -> list[FactorPair]:
    g = generator()
    return [
        pair_of(conditioned(r, i, 3.0, g).to(dtype), conditioned(o, r, 30.0, g).to(dtype), f"layers.{n}")
        for n, (o, i, r) in enumerate(shapes)
    ]


def give_gradients(pairs: Sequence[FactorPair], seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    """Random gradients of a weight, as the factors see them; returns copies."""
    g = generator(seed)
    for pair in pairs:
        G = torch.randn(pair.B.shape[0], pair.A.shape[1], generator=g).to(pair.A.dtype)
        pair.A.grad, pair.B.grad = pair.B.detach().T @ G, G @ pair.A.detach().T
    return gradients_of(pairs)


def gradients_of(pairs: Sequence[FactorPair]) -> list[tuple[Tensor, Tensor]]:
    return [(grad(pair.A).clone(), grad(pair.B).clone()) for pair in pairs]


def took_step(rule: UpdateRule, pairs: Sequence[FactorPair], seed: int) -> bool:
    """One optimizer step without an optimizer; whether the rule changed the gradients."""
    before = give_gradients(pairs, seed)
    rule.before_step()
    after = gradients_of(pairs)
    rule.after_step({})
    same = [torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) for x, y in zip(before, after, strict=True)]
    return not all(same)


@pytest.mark.parametrize("damping", [0.0, 1e-3])
def test_gradients_are_multiplied_by_s_inverse_and_s(damping: float) -> None:
    """For pairs of unlike ranks and shapes, in place, whatever the order in which they are handled."""
    pairs = random_pairs()
    before = give_gradients(pairs)
    places = [grad(pair.A).data_ptr() for pair in pairs]
    RefLoRARule(pairs, 0, 1, damping).before_step()
    assert [grad(pair.A).data_ptr() for pair in pairs] == places
    for pair, (gA, gB) in zip(pairs, before, strict=True):
        S, S_inverse = metric_by_svd(pair.A.detach(), pair.B.detach(), damping)
        torch.testing.assert_close(pair.A.grad, (S_inverse @ gA.double()).float())
        torch.testing.assert_close(pair.B.grad, (gB.double() @ S).float())


@pytest.mark.parametrize("interval", [1, 4])
def test_there_is_one_factorization_for_each_rank_and_renewal(interval: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not two for every module: on a GPU each of them makes the host wait."""
    calls = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrices: calls.append(matrices.shape) or eigh(matrices))
    pairs = random_pairs()
    rule = RefLoRARule(pairs, 0, interval, 1e-3)
    for seed in range(4):
        took_step(rule, pairs, seed)
    assert calls == [(4, 3, 3), (1, 5, 5), (1, 1, 1)] * (4 // interval)


def test_how_pairs_are_stacked_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """One pair to a stack gives the same as all of a shape in one."""
    together, apart = random_pairs(), random_pairs()
    give_gradients(together), give_gradients(apart)
    RefLoRARule(together, 0, 1, 1e-3).before_step()
    monkeypatch.setattr(stacks, "STACK_ELEMENTS", 1)
    RefLoRARule(apart, 0, 1, 1e-3).before_step()
    for (gA, gB), (gA_other, gB_other) in zip(gradients_of(together), gradients_of(apart), strict=True):
        torch.testing.assert_close(gA, gA_other, rtol=1e-6, atol=0)
        torch.testing.assert_close(gB, gB_other, rtol=1e-6, atol=0)


def test_a_gpu_s_ways_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacked products and no eigendecomposition, here on the CPU; a gradient that is missing in a stack too."""
    apart, together = random_pairs(), random_pairs()
    give_gradients(apart), give_gradients(together)
    apart[1].A.grad = together[1].A.grad = None
    RefLoRARule(apart, 0, 1, 1e-2).before_step()
    monkeypatch.setattr(stacks, "one_by_one", lambda device: False)
    monkeypatch.setattr(linalg, "way_for", lambda device, damping: linalg.by_products)
    monkeypatch.setattr(torch.linalg, "eigh", None)
    RefLoRARule(together, 0, 1, 1e-2).before_step()
    for pair, other in zip(apart, together, strict=True):
        torch.testing.assert_close(pair.B.grad, other.B.grad, rtol=1e-5, atol=1e-7)
        if pair is not apart[1]:
            torch.testing.assert_close(pair.A.grad, other.A.grad, rtol=1e-5, atol=1e-7)
    assert together[1].A.grad is None


def test_a_device_without_float64_leaves_factoring_to_the_cpu() -> None:
    assert stacks.factoring_device(torch.device("mps")) == torch.device("cpu")
    assert stacks.factoring_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


def test_a_missing_gradient_is_left_alone_and_the_others_are_not() -> None:
    pairs = random_pairs([(12, 10, 3)] * 3)
    expected = random_pairs([(12, 10, 3)] * 3)
    give_gradients(pairs), give_gradients(expected)
    pairs[1].A.grad = None
    pairs[2].B.grad = None
    RefLoRARule(pairs, 0, 1, 1e-3).before_step()
    RefLoRARule(expected, 0, 1, 1e-3).before_step()
    for pair, other in zip(pairs, expected, strict=True):
        for parameter, twin in ((pair.A, other.A), (pair.B, other.B)):
            assert parameter.grad is None or torch.equal(parameter.grad, grad(twin))
    assert pairs[1].A.grad is None
    assert pairs[2].B.grad is None


def test_no_gradient_at_all_is_a_step_like_any_other() -> None:
    rule = RefLoRARule(random_pairs(), 0, 1, 1e-3)
    rule.before_step()
    rule.after_step({})
    assert rule.tensors() == {"steps": torch.tensor(1)}


def test_a_pair_whose_b_is_zero_steps_plainly_and_its_neighbours_do_not() -> None:
    """The exact limit would multiply both gradients by zero and freeze the pair."""
    pairs = random_pairs([(12, 10, 3)] * 3)
    with torch.no_grad():
        pairs[1].B.zero_()
    before = give_gradients(pairs)
    RefLoRARule(pairs, 0, 1, 1e-3).before_step()
    after = gradients_of(pairs)
    assert torch.equal(after[1][0], before[1][0])
    assert torch.equal(after[1][1], before[1][1])
    assert not torch.equal(after[0][1], before[0][1])
    assert not torch.equal(after[2][1], before[2][1])


@pytest.mark.parametrize("damping", [0.0, 1e-3])
def test_a_pair_without_an_s_in_float32_s_range_steps_plainly_and_its_neighbours_do_not(damping: float) -> None:
    """Norms 1e38 apart: S^-1 gA and gB S would not be finite, and nothing looks at gradients any more."""
    pairs = random_pairs([(12, 10, 3)] * 3)
    with torch.no_grad():
        pairs[1].A.mul_(1e19)
        pairs[1].B.mul_(1e-19)
    before = give_gradients(pairs)
    RefLoRARule(pairs, 0, 1, damping).before_step()
    after = gradients_of(pairs)
    assert torch.equal(after[1][0], before[1][0])
    assert torch.equal(after[1][1], before[1][1])
    assert not torch.equal(after[0][1], before[0][1])
    assert not torch.equal(after[2][1], before[2][1])


def test_without_damping_a_pair_with_equal_columns_steps_plainly() -> None:
    """S would be wrong by 88%."""
    pairs = random_pairs([(12, 10, 3)] * 2)
    with torch.no_grad():
        pairs[1].B[:, 0] = pairs[1].B[:, 1]
    rule = RefLoRARule(pairs, 1, 2, 0.0)
    assert took_step(rule, pairs, 0) is False
    assert rule.stepped_plainly() == []
    before = give_gradients(pairs)
    rule.before_step()
    after = gradients_of(pairs)
    assert torch.equal(after[1][0], before[1][0])
    assert torch.equal(after[1][1], before[1][1])
    assert not torch.equal(after[0][0], before[0][0])
    assert rule.stepped_plainly() == ["layers.1"]


def test_a_zero_column_in_b_gives_finite_gradients() -> None:
    pairs = random_pairs()
    with torch.no_grad():
        pairs[0].B[:, 0] = 0
    give_gradients(pairs)
    RefLoRARule(pairs, 0, 1, 1e-3).before_step()
    assert all(gA.isfinite().all() and gB.isfinite().all() for gA, gB in gradients_of(pairs))


def test_float32_gradients_at_condition_1e5() -> None:
    """Finite and right to float32's last digits, undamped: the products are float64. The naive formula gives NaN."""
    g = generator()
    A, B = 3 * conditioned(16, 64, 1.0, g).float(), conditioned(96, 16, 1e5, g).float()
    pair = pair_of(A, B)
    gA, gB = give_gradients([pair])[0]
    RefLoRARule([pair], 0, 1, 0.0).before_step()
    S, S_inverse = metric_by_svd(A, B)
    exact_A, exact_B = S_inverse @ gA.double(), gB.double() @ S
    assert (grad(pair.A) - exact_A).norm() / exact_A.norm() < 1e-6
    assert (grad(pair.B) - exact_B).norm() / exact_B.norm() < 1e-7
    naive_S, naive_S_inverse = paper_metric(A, B)
    assert (naive_S_inverse @ gA).isnan().any()
    assert (gB @ naive_S).isnan().any()


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_the_first_changed_gradient_is_that_of_step_warmup_plus_one(warmup: int) -> None:
    pairs = random_pairs()
    rule = RefLoRARule(pairs, warmup, 1, 1e-3)
    assert [took_step(rule, pairs, seed) for seed in range(6)] == [step >= warmup for step in range(6)]


def applied_matrices(rule: RefLoRARule, pair: FactorPair, steps: int) -> Iterator[Tensor]:
    """The S of each step, read off a gradient gB = (I 0)^T, while B changes from step to step."""
    for _ in range(steps):
        pair.A.grad = torch.zeros_like(pair.A)
        pair.B.grad = torch.eye(*pair.B.shape, dtype=pair.B.dtype)
        rule.before_step()
        rule.after_step({})
        yield grad(pair.B)[: pair.rank].clone()
        with torch.no_grad():
            pair.B.mul_(1.5)


def test_with_an_interval_the_last_s_is_applied_at_every_step() -> None:
    """S is renewed at steps w + 1, w + 1 + k, ...; no step after the warm-up sees a raw gradient."""
    pair = random_pairs([(12, 10, 3)], torch.float64)[0]
    first = metric_by_svd(pair.A.detach(), 1.5**2 * pair.B.detach())[0]
    applied = list(applied_matrices(RefLoRARule([pair], 2, 3, 0.0), pair, 9))
    identity = torch.eye(3, dtype=torch.float64)
    expected = [identity] * 2 + [first] * 3 + [first * 1.5**3] * 3 + [first * 1.5**6]
    for S, other in zip(applied, expected, strict=True):
        torch.testing.assert_close(S, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("stop", range(8))
def test_a_rule_saved_at_any_step_goes_on_where_it_was(stop: int, interval: int) -> None:
    """The count continues, and so does an S in use: applied matrices are equal to the bit."""
    straight, saved = random_pairs([(12, 10, 3)])[0], random_pairs([(12, 10, 3)])[0]
    expected = list(applied_matrices(RefLoRARule([straight], 2, interval, 1e-3), straight, 9))
    before = RefLoRARule([saved], 2, interval, 1e-3)
    found = list(applied_matrices(before, saved, stop))
    after = RefLoRARule([saved], 2, interval, 1e-3)
    after.load_tensors(before.tensors())
    found += list(applied_matrices(after, saved, 9 - stop))
    assert all(torch.equal(S, other) for S, other in zip(found, expected, strict=True))


def test_the_cached_matrices_are_saved_by_module() -> None:
    """Ranks and shapes mixed, loaded into a rule that got the pairs in another order."""
    pairs = random_pairs()
    rule = RefLoRARule(pairs, 0, 2, 1e-3)
    took_step(rule, pairs, 0)
    tensors = rule.tensors()
    names = {f"{key}.{pair.name}" for key in ("S", "S_inverse") for pair in pairs}
    assert tensors.keys() == {"steps"} | names
    other = RefLoRARule(pairs[::-1], 0, 2, 1e-3)
    other.load_tensors(tensors)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in other.tensors().items())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tensors: tensors.pop("steps"), "missing steps"),
        (lambda tensors: tensors.pop("S.layers.0"), "missing S.layers.0"),
        (lambda tensors: tensors.update(p=torch.tensor(1.0)), "unexpected p"),
        (lambda tensors: tensors.update({"S.layers.0": torch.eye(2)}), r"S.layers.0 has shape \(2, 2\), not \(3, 3\)"),
        (lambda tensors: tensors.update(steps=torch.ones(2)), r"steps has shape \(2,\), not \(\)"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    change: Callable[[dict[str, Tensor]], object], complaint: str
) -> None:
    pairs = random_pairs()
    rule = RefLoRARule(pairs, 0, 2, 1e-3)
    took_step(rule, pairs, 0)
    before = rule.tensors()
    tensors = dict(before)
    change(tensors)
    with pytest.raises(ValueError, match=complaint):
        rule.load_tensors(tensors)
    assert rule.tensors().keys() == before.keys()
    assert torch.equal(rule.tensors()["steps"], before["steps"])


def test_a_state_of_another_interval_is_refused() -> None:
    pairs = random_pairs()
    rule = RefLoRARule(pairs, 0, 2, 1e-3)
    took_step(rule, pairs, 0)
    with pytest.raises(ValueError, match=r"unexpected S\.layers\.0"):
        RefLoRARule(pairs, 0, 1, 1e-3).load_tensors(rule.tensors())


@pytest.mark.parametrize(("condition", "tolerance"), [(1.0, 1e-6), (30.0, 1e-5), (1e3, 4e-3), (1e5, 1e-4)])
@pytest.mark.parametrize("rank", [8, 32])
def test_single_precision_is_enough_with_damping(rank: int, condition: float, tolerance: float) -> None:
    """Gradients of float32 factors, against the same damped S from float64 throughout."""
    generator = torch.Generator().manual_seed(rank)
    A, B = conditioned(rank, 400, 3.0, generator), conditioned(300, rank, condition, generator)
    G = torch.randn(300, 400, dtype=torch.float64, generator=generator)
    pair = FactorPair("m", nn.Parameter(A.float()), nn.Parameter(B.float()), 1.0)
    pair.A.grad, pair.B.grad = (B.T @ G).float(), (G @ A.T).float()
    exact = metric_of(pair.A.detach().double(), pair.B.detach().double(), 1e-3)
    expected = exact.S_inverse @ pair.A.grad.double(), pair.B.grad.double() @ exact.S
    RefLoRARule([pair], 0, 1, 1e-3).before_step()
    for parameter, right in zip((pair.A, pair.B), expected, strict=True):
        assert parameter.grad is not None
        assert (parameter.grad.double() - right).norm() < tolerance * right.norm()
