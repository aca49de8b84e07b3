"""EVA's start: principal directions against float64 and PEFT, ranks against the budget."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.eva import initialize_lora_eva_weights
from peft.utils.incremental_pca import IncrementalPCA
from torch import Tensor, nn

from reflora_cli.adapters.adaptation import adapt
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.eva import Directions, Search
from reflora_cli.adapters.inject import inject, remove_empty
from reflora_cli.adapters.low_rank import uniform
from reflora_cli.adapters.sight import Pass
from reflora_cli.adapters.start import generator_for, low_rank_layers, start
from reflora_cli.factors.pair import scaling_factor
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from reflora_cli.methods.starts import EvaStart
from tests.models import HEADS, batch, descend, injected, make, sight_of

ROWS = 16


def rows(count: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rows with a mean and a spectrum that falls by a factor of 30."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(1), dtype=dtype)).Q
    scales = torch.logspace(0, -1.5, width, dtype=dtype)
    return torch.randn(count, width, generator=generator, dtype=dtype) * scales @ mix + 3


def directions(x: Tensor, count: int, batches: int) -> Directions:
    own = Directions(count, 0.99)
    for part in x.chunk(batches):
        own.add(part)
    return own


def test_directions_are_the_singular_vectors_of_all_rows_however_they_come() -> None:
    """With nothing cut off the SVD is exact: of 12 batches as of one, and equal to that of all centered rows."""
    x = rows(600, 10)
    _, S, V = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
    for batches in (1, 2, 12):
        own = directions(x, 10, batches)
        torch.testing.assert_close(own.S, S, rtol=1e-10, atol=0)
        torch.testing.assert_close((own.V * V).sum(dim=1).abs(), torch.ones(10, dtype=torch.float64))
        torch.testing.assert_close(own.shares, S.square() / S.square().sum())


def test_cutting_off_changes_the_first_directions_little() -> None:
    """Four of 32 directions out of 20 batches, against the exact ones of all rows."""
    x = rows(2000, 32)
    _, S, V = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
    own = directions(x, 8, 20)
    assert (own.V * V[:8]).sum(dim=1)[:4].abs().min() > 0.99
    assert (own.shares - (S.square() / S.square().sum())[:8])[:4].abs().max() < 0.01
    assert torch.equal(own.V, directions(x, 8, 20).V)


@pytest.mark.parametrize(("width", "count"), [(16, 2), (32, 8), (128, 8)])
def test_directions_are_those_of_pefts_incremental_pca(width: int, count: int) -> None:
    """In float64 to rounding, batch after batch: the approximation is the same, random columns included."""
    own, reference = Directions(count, 0.99), IncrementalPCA(count, copy=True, lowrank=True, lowrank_seed=42)
    for seed in range(10):
        x = rows(200, width, seed)
        own.add(x)
        reference.partial_fit(x)
        torch.testing.assert_close(own.V, reference.components_, rtol=0, atol=1e-9)
        torch.testing.assert_close(own.S, reference.singular_values_, rtol=1e-9, atol=0)
        torch.testing.assert_close(own.shares, reference.explained_variance_ratio_, rtol=1e-9, atol=0)


def test_fewer_rows_than_directions_give_as_many_as_there_are() -> None:
    own = Directions(8, 0.99)
    own.add(rows(3, 12, dtype=torch.float32))
    assert own.V.shape == (3, 12)
    own.add(rows(20, 12, seed=1, dtype=torch.float32))
    assert own.V.shape == (8, 12)
    assert not own.settled[3:].any()
    torch.testing.assert_close(own.V @ own.V.T, torch.eye(8), atol=1e-6, rtol=0)


def test_inputs_that_are_all_the_same_explain_nothing() -> None:
    own = Directions(2, 0.99)
    own.add(torch.ones(5, 4))
    assert own.shares.tolist() == [0, 0]


def started(name: str, rank: int, scaling: str = "standard", **start_: Any) -> tuple[nn.Module, Adapted, Method]:
    """A model with an adapter that has just started; layers of rank 0 are still there."""
    model = make(name)
    choices = {"kind": "eva", **start_}
    method = Method(name="eva", rank=rank, alpha=2.0 * rank, start=choices, scaling=scaling)
    adapted = inject(model, method, HEADS[name], HEADS[name])
    start(adapted, method.start, 0, sight_of(model, ROWS))
    return model, adapted, method


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "deberta"])
def test_ranks_differ_and_keep_the_budget(name: str, rank: int) -> None:
    _, adapted, method = started(name, rank)
    layers = low_rank_layers(adapted)
    ranks = [layer.rank for layer in layers.values()]
    assert sum(ranks) == rank * len(ranks)
    assert max(ranks) <= 2 * rank
    assert (0 in ranks) == (rank == 1), "of inputs as random as these, three directions each explain alike"
    for layer in layers.values():
        torch.testing.assert_close(layer.A @ layer.A.T, torch.eye(layer.rank), atol=1e-5, rtol=0)
        assert not layer.B.any()
        assert layer.scale == scaling_factor(method.scaling, method.alpha, method.rank) == 2.0


def test_s_stays_under_rslora_and_ranks_of_one_size_at_rho_1() -> None:
    _, adapted, method = started("bert", 3, "rslora", rho=1.0)
    assert {layer.rank for layer in low_rank_layers(adapted).values()} == {3}
    _, adapted, _ = started("bert", 3, "rslora")
    assert {layer.scale for layer in low_rank_layers(adapted).values()} == {scaling_factor(method.scaling, 6.0, 3)}


def test_no_rank_exceeds_the_output() -> None:
    model = nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 8), nn.Linear(8, 8))
    method = Method(name="eva", rank=2, start={"kind": "eva", "rho": 4.0})
    adapted = inject(model, method, [], [])
    layers = low_rank_layers(adapted)
    x = rows(60, 8, dtype=torch.float32)
    search = Search(layers, EvaStart(rho=4.0))
    search.look(Pass(lambda: model(x[None]), torch.ones(1, 60, dtype=torch.bool), 1))
    assert search.ranks["0"] <= 2
    assert search.ranks["1"] <= 2
    assert sum(search.ranks.values()) == 6


def test_whitening_divides_by_the_roots_of_singular_values() -> None:
    own = directions(rows(100, 10), 4, 2)
    expected = own.V[:3] / own.S[:3, None] ** 0.5
    torch.testing.assert_close(own.basis(3, EvaStart(whiten=True)), expected)
    assert torch.equal(own.basis(3, EvaStart()), own.V[:3])


def test_layers_with_one_input_share_its_directions() -> None:
    _, adapted, _ = started("llama", 3, rho=1.0)
    layers = low_rank_layers(adapted)
    first = {name.rpartition(".")[2]: layer.A for name, layer in layers.items() if ".0.self_attn." in name}
    assert torch.equal(first["q_proj"], first["k_proj"])
    assert torch.equal(first["q_proj"], first["v_proj"])
    assert not torch.equal(first["q_proj"], first["o_proj"])


def test_a_layer_that_no_token_reaches_starts_as_by_default() -> None:
    model = nn.ModuleDict({"used": nn.Linear(6, 6), "expert": nn.Linear(6, 6)})
    adapted = inject(model, Method(name="eva", rank=2), [], [])
    x = rows(40, 6, dtype=torch.float32)
    one = Pass(lambda: model["used"](x[None]), torch.ones(1, 40, dtype=torch.bool), 5000)
    start(adapted, EvaStart(), 0, type(sight_of(model))([one], lambda _: None))
    assert torch.equal(low_rank_layers(adapted)["expert"].A, uniform(2, 6, generator_for(0, "expert")))
    assert low_rank_layers(adapted)["used"].rank == 2


def test_the_search_ends_at_the_limit_of_rows_and_tells_how_it_goes() -> None:
    model, told = make("bert"), list[str]()
    method = Method(name="eva", start={"kind": "eva", "tau": 1.0, "rows": 40})
    adapted = inject(model, method, HEADS["bert"], HEADS["bert"])
    sight = sight_of(model, ROWS)
    start(adapted, method.start, 0, type(sight)(sight.passes, told.append))
    assert told[0] == "before the first step, eva looks at up to 40 training rows"
    assert [line.split(",")[0] for line in told[1:]] == ["eva: 16 rows", "eva: 32 rows", "eva: 48 rows"]


def test_without_rows_it_is_refused() -> None:
    adapted = inject(make("bert"), Method(name="eva"), HEADS["bert"], HEADS["bert"])
    with pytest.raises(InputError, match="there are none"):
        start(adapted, EvaStart(), 0)
    with pytest.raises(InputError, match="start"):
        adapt(nn.Sequential(nn.Linear(4, 4)), start="eva")


def seen_by_peft(x: Any, places: Tensor, _: str) -> Tensor:
    """PEFT's own choice of places fails for pooled states."""
    x = x[0] if isinstance(x, tuple) else x
    return x[places.T.unbind()] if x.ndim == 3 else x.contiguous()


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_ranks_are_pefts_and_twenty_steps_follow_it(name: str) -> None:
    """On the same batches: the same ranks, A as far as rounding allows it in float32 where singular values lie close
    (angles up to 0.02), and from equal factors the same training to 1e-5.
    """
    base = make(name)
    method = Method(name="eva", rank=1, alpha=2.0)
    ours, plain = copy.deepcopy(base), inject(copy.deepcopy(base), method, HEADS[name], HEADS[name])
    adapted = inject(ours, method, HEADS[name], HEADS[name])
    start(adapted, method.start, 0, sight_of(ours, ROWS))
    remove_empty(ours, adapted)
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=1, lora_alpha=2.0, target_modules=list(plain.layers), init_lora_weights="eva",
        modules_to_save=list(HEADS[name]), eva_config=peft.EvaConfig(), fan_in_fan_out=name == "gpt2",
    )  # fmt: skip
    theirs = peft.get_peft_model(base, config)
    batches = [batch(seed, ROWS)[0] for seed in range(200)]
    initialize_lora_eva_weights(theirs, batches, show_progress_bar=False, prepare_layer_inputs_fn=seen_by_peft)
    own = dict(theirs.base_model.model.named_modules())
    layers = low_rank_layers(adapted)
    assert 0 < len(layers) < len(plain.layers)
    assert {path for path in plain.layers if path not in layers} == {
        path for path in plain.layers if not isinstance(own[path], LoraLayer)
    }
    for path, layer in layers.items():
        reference = own[path].lora_A["default"].weight
        assert reference.shape[0] == layer.rank
        assert own[path].scaling["default"] == layer.scale
        assert (layer.A * reference).sum(dim=1).min() > 0.999
        reference.data.copy_(layer.A)
    assert descend(ours) == pytest.approx(descend(theirs), abs=1e-5)
    for path, layer in layers.items():
        torch.testing.assert_close(layer.B.detach(), own[path].lora_B["default"].weight.detach(), atol=1e-5, rtol=0)


def test_an_adapted_model_of_the_contract_has_no_layer_of_rank_zero() -> None:
    adapted = injected(make("bert"), Method(name="eva", rank=1), HEADS["bert"], HEADS["bert"])
    assert 0 < len(adapted.layers) < 13
    assert sum(pair.rank for pair in adapted.pairs) == 13
