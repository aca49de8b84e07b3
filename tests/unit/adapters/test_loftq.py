"""LoftQ and LQ-LoRA: how near codes and pair come to the weight, PEFT's own LoftQ, and codes that are made again."""

from __future__ import annotations

import copy
from typing import Any

import bitsandbytes
import pytest
import torch
from peft.utils import loftq_utils
from torch import Tensor, nn

from reflora_cli.adapters.adaptation import adapt
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.dora import DoRALinear
from reflora_cli.adapters.inject import build_layer
from reflora_cli.adapters.loftq import Approximation, Split, loftq_split, lq_lora_split
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.adapters.quantized import QuantizedWeight, quantize
from reflora_cli.adapters.start import generator_for, start, take_up
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.layers import LAYERS
from reflora_cli.methods.starts import LoftQStart, LQLoRAStart
from tests.models import make

KINDS = ("nf4", "fp4", "int8")
RANK = 8


def weight(seed: int = 0, shape: tuple[int, int] = (128, 96)) -> Tensor:
    """A weight whose rows differ in size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * torch.rand(shape[0], 1, generator=generator)


def frozen(W: Tensor, kind: str = "nf4", double: bool = True) -> QuantizedWeight:
    own = quantize(W, None, kind, double=double, dtype=torch.float32, layout=nn.Linear)
    own.read_original = W.clone
    return own


def approximation(scale: float = 1.5) -> Approximation:
    return Approximation(RANK, scale, None, generator_for(0, "m"))


def error(base: QuantizedWeight, split: Split, W: Tensor) -> float:
    """|W - Q - s B A| in float64, the codes made here."""
    pair, taken = split
    scale = pair.scale
    rest = W if taken is None else (W.double() - scale * taken.B.double() @ taken.A.double()).float()
    Q = quantize(rest, None, base.kind, double=base.is_double, dtype=torch.float32, layout=nn.Linear).dense()
    return float((W.double() - Q.double() - scale * pair.B.double() @ pair.A.double()).norm())


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_below_that_of_the_base_and_falls_with_the_rounds(kind: str, scale: float) -> None:
    W = weight()
    base = frozen(W, kind)
    plain = float((W - base.dense()).norm())
    errors = [error(base, loftq_split(base, approximation(scale), rounds), W) for rounds in (1, 2, 5)]
    assert errors[0] < 0.95 * plain
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < errors[0] * (1 if kind == "int8" else 0.99)


@pytest.mark.parametrize("kind", KINDS)
def test_one_round_is_the_best_correction_of_the_base_as_it_is(kind: str) -> None:
    """Eckart-Young in float64: what remains has the other singular values of the error."""
    W = weight()
    base = frozen(W, kind)
    split = loftq_split(base, approximation(), 1)
    assert split.taken is None
    lost = torch.linalg.svdvals(W.double() - base.dense().double())
    assert error(base, split, W) == pytest.approx(float(lost[RANK:].norm()), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_lq_lora_stops_where_the_next_step_is_no_nearer(kind: str) -> None:
    """The first step is the quantized remainder of the strongest part; the last one's successor is taken here."""
    W = weight()
    base = frozen(W, kind)
    U, sigma, V = torch.linalg.svd(W.double(), full_matrices=False)
    product = ((U[:, :RANK] * sigma[:RANK]) @ V[:RANK]).float()
    made = quantize(W - product, None, kind, double=True, dtype=torch.float32, layout=nn.Linear)
    errors = [error(base, lq_lora_split(base, approximation(), rounds), W) for rounds in (1, 2, 4, 1000)]
    assert errors[0] == pytest.approx(float((W - product - made.dense()).norm()), rel=1e-3)
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < errors[0]
    split = lq_lora_split(base, approximation(), 1000)
    assert split.taken == split.pair
    rest = W - base.moved_original(-split.pair.product()).dense()
    following = approximation().of(rest)
    assert error(base, Split(following, following), W) >= errors[3]


def by_peft(W: Tensor, rounds: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor, Tensor]:
    """PEFT's LoftQ, whose devices are a GPU's, on the CPU."""
    move, pack = torch.Tensor.to, bitsandbytes.nn.Params4bit.to

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return move(self, *("cpu" if own == "cuda" else own for own in args), **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", to)
        patch.setattr(bitsandbytes.nn.Params4bit, "to", lambda self, *_: pack(self, "cpu"))
        Q, A, B = loftq_utils.loftq_init(W, num_bits=4, reduced_rank=RANK, num_iter=rounds)
    return Q, A, B


@pytest.mark.parametrize("rounds", [1, 5])
def test_at_s_1_it_is_peft_s_and_elsewhere_peft_adds_the_wrong_correction(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    W = weight(shape=(96, 128))  # on rows that are no multiple of 64, its codes are dequantized wrongly on the CPU
    Q, A, B = by_peft(W, rounds, monkeypatch)
    base = frozen(W, double=False)
    pair, taken = loftq_split(base, approximation(1.0), rounds)
    own = base if taken is None else base.moved_original(-taken.product())
    if rounds == 1:
        assert torch.equal(own.dense(), Q)
        torch.testing.assert_close(pair.product(), B @ A, atol=1e-5, rtol=0)
    else:  # a last bit of a product may be another code, and in the next round many
        assert (own.dense() - Q).norm() < 0.02 * Q.norm()
        assert (pair.product() - B @ A).norm() < 0.05 * (B @ A).norm()
        assert error(base, Split(pair, taken), W) == pytest.approx(float((W - Q - B @ A).norm()), rel=1e-3)
    plain = float((W - base.dense()).norm())
    assert (W - Q - B @ A).norm() < plain
    # With s = 3 PEFT trains the same factors, and adds three times the correction.
    assert (W - Q - 3.0 * B @ A).norm() > plain
    assert error(base, loftq_split(base, approximation(3.0), rounds), W) < plain


def started(kind: str, layer: str, choice: LoftQStart | LQLoRAStart) -> tuple[LowRankLayer, Tensor]:
    W = weight()
    pair = torch.zeros(RANK, 96), torch.zeros(128, RANK)
    own = build_layer(LAYERS[layer](), frozen(W, kind), pair, 1.5, 0.0)
    assert isinstance(own, LowRankLayer)
    start(Adapted({"m": own}, {}, {}), choice, 0)
    return own, W


@pytest.mark.parametrize("choice", [LoftQStart(rounds=1), LoftQStart(), LQLoRAStart(), LoftQStart(iterations=4)])
@pytest.mark.parametrize("layer", ["lora", "dora"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_starts_nearer_to_the_weight_than_its_base_is(
    kind: str, layer: str, choice: LoftQStart | LQLoRAStart
) -> None:
    own, W = started(kind, layer, choice)
    assert (own.merged() - W).norm() < 0.97 * (frozen(W, kind).dense() - W).norm()
    if isinstance(own, DoRALinear):
        torch.testing.assert_close(own.merged(), own.dense_sum(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("choice", [LoftQStart(rounds=1), LoftQStart(), LQLoRAStart()])
@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_made_again_to_the_bit(kind: str, choice: LoftQStart | LQLoRAStart) -> None:
    own, W = started(kind, "lora", choice)
    kept = {f"m.{key}": tensor.clone() for key, tensor in {**own.constants(), "A": own.A, "B": own.B}.items()}
    again = build_layer(LAYERS["lora"](), frozen(W, kind), (own.A[:1], own.B[:, :1]), own.scale, 0.0)
    assert isinstance(again, LowRankLayer)
    take_up(Adapted({"m": again}, {}, {}), kept)
    assert again.early_rank == (0 if choice == LoftQStart(rounds=1) else RANK)
    assert torch.equal(again.frozen.weight, own.frozen.weight)
    assert torch.equal(again.merged(), own.merged())


def test_a_base_that_was_moved_twice_is_made_again() -> None:
    """First before W was quantized, then after."""
    own, W = started("nf4", "lora", LoftQStart())
    own.move(torch.randn(2, 96) / 10, torch.randn(128, 2) / 10)
    kept = {f"m.{key}": tensor.clone() for key, tensor in {**own.constants(), "A": own.A, "B": own.B}.items()}
    again = build_layer(LAYERS["lora"](), frozen(W), (own.A[:1], own.B[:, :1]), own.scale, 0.0)
    assert isinstance(again, LowRankLayer)
    take_up(Adapted({"m": again}, {}, {}), kept)
    assert (again.early_rank, again.offset_rank) == (RANK, RANK + 2)
    assert torch.equal(again.merged(), own.merged())


def test_weights_that_are_not_there_or_not_quantized_are_refused() -> None:
    W = weight()
    lost, other = frozen(W), frozen(W)
    lost.read_original, other.read_original = lambda: None, weight(1).clone
    for own, found in ((lost, "quantized weights only"), (other, "a weight that quantizes differently")):
        with pytest.raises(InputError) as caught:
            copy.deepcopy(own).original()
        assert found in str(caught.value.problems[0].found)
    with pytest.raises(InputError, match="no adapted module is quantized"):
        adapt(make("bert"), "query", start="loftq")
