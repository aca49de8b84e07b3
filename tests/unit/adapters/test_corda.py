"""CorDA's start: C against float64, what is taken out against Eckart and Young's theorem, and PEFT."""

from __future__ import annotations

import peft
import pytest
import torch
from peft.tuners.lora.corda import calib_cov_distribution, collect_eigens_for_layer
from torch import Tensor, nn

from reflora_cli.adapters.corda import DAMPING, covariances, oriented_pair
from reflora_cli.adapters.inject import inject
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.adapters.sight import Pass, Sight
from reflora_cli.adapters.start import low_rank_layers, start
from reflora_cli.methods.method import Method
from reflora_cli.methods.starts import CorDAStart
from tests.models import HEADS, batch, descend, injected, make, sight_of

RANK, SCALE = 3, 2.0


def inputs(count: int = 50, width: int = 12, seed: int = 0) -> Tensor:
    """Rows with a mean and a spectrum that falls by a factor of 30."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    return torch.randn(count, width, generator=generator) * torch.logspace(0, -1.5, width) @ mix + 0.3


def damped(x: Tensor) -> Tensor:
    """C of rows, in float64."""
    C = x.double().T @ x.double() / len(x)
    return C + DAMPING * C.trace() / len(C) * torch.eye(len(C), dtype=torch.float64)


def layers_of(*modules: nn.Module) -> tuple[nn.Sequential, dict[str, LowRankLayer]]:
    model = nn.Sequential(*modules)
    return model, low_rank_layers(inject(model, Method(name="corda", rank=RANK, alpha=RANK * SCALE), [], []))


def sight(model: nn.Module, *parts: Tensor) -> Sight:
    passes = [Pass(lambda x=x: model(x[None]), torch.ones(1, len(x), dtype=torch.bool), len(x)) for x in parts]
    return Sight(passes, lambda _: None, sum(map(len, parts)))


def test_c_is_the_mean_over_all_places_however_they_are_batched() -> None:
    model, layers = layers_of(nn.Linear(12, 7))
    x = inputs()
    for parts in ([x], [x[:7], x[7:9], x[9:]]):
        found = covariances(layers, CorDAStart(), sight(model, *parts))["0"]
        torch.testing.assert_close(found, x.double().T @ x.double() / 50, rtol=1e-12, atol=1e-14)


def test_padding_is_no_input_and_layers_with_one_input_share_c() -> None:
    model = make("llama")
    layers = low_rank_layers(inject(model, Method(name="corda", rank=RANK), HEADS["llama"], HEADS["llama"]))
    found = covariances(layers, CorDAStart(rows=1), sight_of(model))
    names = {name.rpartition(".")[2]: name for name in layers if ".0." in name}
    assert found[names["q_proj"]] is found[names["v_proj"]]
    assert found[names["q_proj"]] is not found[names["o_proj"]]
    rows, mask = batch(0)[0]["input_ids"], batch(0)[0]["attention_mask"].bool()
    x = model.model.layers[0].input_layernorm(model.model.embed_tokens(rows))[mask].detach().double()
    torch.testing.assert_close(found[names["q_proj"]], x.T @ x / len(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
@pytest.mark.parametrize("shape", [(7, 12), (12, 12), (20, 12)])
def test_what_is_taken_out_are_triplets_of_w_c(mode: str, shape: tuple[int, int]) -> None:
    """(W - s B A) C has the other singular values: the least possible ones for ipm, by Eckart and Young."""
    x, W = inputs(), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    C = x.double().T @ x.double() / len(x)
    A, B = oriented_pair(W, C, RANK, SCALE, CorDAStart(mode=mode))
    assert (A.shape, B.shape) == ((RANK, 12), (shape[0], RANK))
    sigma = torch.linalg.svdvals(W.double() @ damped(x))
    left = torch.linalg.svdvals((W.double() - SCALE * B.double() @ A.double()) @ damped(x))
    expected = sigma[RANK:] if mode == "ipm" else sigma[:-RANK]
    torch.testing.assert_close(left[: len(expected)], expected, rtol=1e-5, atol=1e-6)
    assert left[len(expected) :].max() < 1e-5


def test_a_layer_without_inputs_starts_as_by_default_and_its_base_stays() -> None:
    model = nn.ModuleDict({"used": nn.Linear(12, 12), "expert": nn.Linear(12, 12)})
    adapted = inject(model, Method(name="corda", rank=2), [], [])
    start(adapted, CorDAStart(), 0, sight(model["used"], inputs()))
    used, expert = low_rank_layers(adapted).values()
    assert (used.offset_rank, expert.offset_rank) == (2, 0)
    assert not expert.B.any()
    assert used.B.any()


def twin_through_peft(
    base: nn.Module, name: str, adapted: dict[str, LowRankLayer], seen: dict[str, Tensor]
) -> nn.Module:
    """The model begun by PEFT from our C."""
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=4, lora_alpha=8.0, target_modules=list(adapted), modules_to_save=list(HEADS[name]),
        init_lora_weights="corda", corda_config=peft.tuners.lora.config.CordaConfig(corda_method="ipm"),
        fan_in_fan_out=name == "gpt2",
    )  # fmt: skip
    with torch.no_grad():
        for path in adapted:
            module = base.get_submodule(path)
            module.covariance_matrix = seen[path].float()
            eigens = collect_eigens_for_layer(module, config)
            eigens.U_WC, eigens.S_WC, eigens.V_WC = eigens.U_WC[:, :4], eigens.S_WC[:4].clone(), eigens.V_WC[:, :4]
            module.eigens = eigens
    return peft.get_peft_model(base, config)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_twenty_steps_follow_peft_from_equal_c(name: str) -> None:
    """PEFT takes the same part out in float32; from equal factors, training is equal to 1e-5."""
    base, ours = make(name), make(name)
    method = Method(name="corda", rank=4, alpha=8.0)
    layers = low_rank_layers(inject(ours, method, HEADS[name], HEADS[name]))
    seen = covariances(layers, method.start, sight_of(ours, 40))
    theirs = twin_through_peft(base, name, layers, seen)
    ours = make(name)
    adapted = injected(ours, method, HEADS[name], HEADS[name], rows=40)
    own = dict(theirs.base_model.model.named_modules())
    with torch.no_grad():
        for path, layer in low_rank_layers(adapted).items():
            rest = own[path].base_layer.weight.T if name == "gpt2" else own[path].base_layer.weight
            torch.testing.assert_close(layer.frozen.dense(), rest, rtol=0, atol=1e-4)
            own[path].base_layer.weight.copy_(layer.frozen.weight)
            own[path].lora_A["default"].weight.copy_(layer.A)
            own[path].lora_B["default"].weight.copy_(layer.B)
    assert descend(ours) == pytest.approx(descend(theirs), abs=1e-5)


def test_pefts_c_depends_on_how_rows_are_batched_and_on_their_signs() -> None:
    """Each batch is divided by the size of its largest entry: -x has another C than x, not a multiple of it."""
    x = torch.tensor([[3.0, -1.0], [-6.0, 1.0], [2.0, 1.0], [1.0, 5.0]])

    def theirs(*parts: Tensor) -> Tensor:
        model = nn.Sequential(nn.Linear(2, 2))
        config = peft.LoraConfig(target_modules=["0"], corda_config=peft.tuners.lora.config.CordaConfig())
        with torch.no_grad():
            calib_cov_distribution(model, config, lambda: [model(part) for part in parts], model, None)
        return model[0].covariance_matrix / model[0].covariance_matrix.trace()

    assert (theirs(x) - theirs(x[:2], x[2:])).abs().max() > 0.02
    assert (theirs(x[:2], x[2:]) - theirs(-x[:2], -x[2:])).abs().max() > 0.02
