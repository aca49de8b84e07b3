"""The gradients of frozen weights against autograd's of the same weights, in a model that could train them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from reflora_cli.adapters.gradients import weight_gradients
from reflora_cli.adapters.inject import inject
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.adapters.sight import Pass, Sight
from reflora_cli.adapters.start import low_rank_layers
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from tests.models import HEADS, MODELS, batch, make, quantized, sight_of


def adapted_layers(model: nn.Module, head: list[str], layer: str = "lora") -> dict[str, LowRankLayer]:
    return low_rank_layers(inject(model, Method(name="lora", rank=2, layer=layer), head, head))


def dense_gradients(model: nn.Module, names: list[str], batches: int, rows: int) -> dict[str, Tensor]:
    """Autograd's, of the weights as they are stored."""
    for seed in range(batches):
        inputs, labels = batch(seed, rows)
        F.cross_entropy(model(**inputs).logits, labels, reduction="sum").backward()
    return {name: model.get_submodule(name).weight.grad for name in names}


@pytest.mark.parametrize("layer", ["lora", "dora"])
@pytest.mark.parametrize("name", list(MODELS))
def test_gradients_are_those_of_the_dense_weights(name: str, layer: str) -> None:
    """Over two batches, in float32; DeBERTa's shared projections of positions and GPT-2's transposed weights too."""
    base = make(name).eval()
    model = copy.deepcopy(base)
    layers = adapted_layers(model, HEADS[name], layer)
    found = weight_gradients(layers, "own", 12, sight_of(model, 6))
    assert found.keys() == layers.keys()
    expected = dense_gradients(base, list(layers), 2, 6)
    for path, G in found.items():
        own = expected[path].T if name == "gpt2" else expected[path]
        torch.testing.assert_close(G, own, rtol=1e-4, atol=1e-5 * float(own.abs().max()))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(layer._forward_hooks for layer in layers.values())


def test_a_quantized_weight_has_the_gradient_of_the_dequantized_one() -> None:
    base = quantized(make("bert"), "nf4")
    layers = adapted_layers(base, HEADS["bert"])
    found = weight_gradients(layers, "own", 6, sight_of(base, 6))
    dense = make("bert").eval()
    with torch.no_grad():
        for path, layer in layers.items():
            dense.get_submodule(path).weight.copy_(layer.frozen.dense())
    expected = dense_gradients(dense, list(layers), 1, 6)
    for path, G in found.items():
        torch.testing.assert_close(G, expected[path], rtol=1e-3, atol=1e-4 * float(expected[path].abs().max()))


def test_recomputed_activations_give_the_same() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    layers, x = adapted_layers(model, []), torch.randn(5, 4, requires_grad=True)

    def seen(recompute: bool) -> dict[str, Tensor]:
        class Loss:
            def __enter__(self) -> Tensor:
                y = checkpoint(model, x, use_reentrant=False) if recompute else model(x)
                return y.square().sum()

            def __exit__(self, *_: object) -> None: ...

        return weight_gradients(layers, "own", 5, Sight([Pass(lambda: None, torch.ones(5, 1), 5, Loss)], print))

    plain, again = seen(False), seen(True)
    assert plain.keys() == again.keys() == {"0", "2"}
    assert all(torch.equal(G, plain[name]) for name, G in again.items())


def test_layers_without_a_gradient_have_none_and_infinite_ones_are_refused() -> None:
    model = nn.ModuleDict({"used": nn.Linear(4, 4), "dead": nn.Linear(4, 4), "expert": nn.Linear(4, 4)})
    layers = adapted_layers(model, [])

    def sight(x: Tensor) -> Sight:
        class Loss:
            def __enter__(self) -> Tensor:
                return (model["used"](x) + 0 * model["dead"](x)).sum()

            def __exit__(self, *_: object) -> None: ...

        return Sight([Pass(lambda: None, torch.ones(2, 1), 2, Loss)], lambda _: None)

    assert weight_gradients(layers, "own", 2, sight(torch.ones(2, 4))).keys() == {"used"}
    with pytest.raises(InputError, match="not finite"):
        weight_gradients(layers, "own", 2, sight(torch.full((2, 4), torch.inf)))
    with pytest.raises(InputError, match="needs gradients of a loss"):
        weight_gradients(layers, "own", 2, Sight([Pass(lambda: None, torch.ones(2, 1), 2)], lambda _: None))
    assert not any(layer._forward_hooks for layer in layers.values())
