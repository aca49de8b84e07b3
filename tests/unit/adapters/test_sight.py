"""What a start sees of training rows: the inputs of layers at the places that count, and nothing of padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from reflora_cli.adapters.inject import inject, remove_empty
from reflora_cli.adapters.sight import NOTHING, Pass, Sharing, Sight, first_passes, watch
from reflora_cli.adapters.start import empty_absent, start
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from tests.models import HEADS, batch, injected, make

PLACES = torch.tensor([[True, True, False], [True, False, False]])


class Calls(nn.Module):
    """Three layers: two called with one tensor, one of them with relative positions too, and one with pooled states."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.pooler = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        self.query(x)
        self.key(x)
        self.query(positions)
        return self.pooler(x[:, 0])


def test_inputs_are_those_at_the_places_that_count() -> None:
    model, x, seen = Calls(), torch.randn(2, 3, 4), list[tuple[str, Tensor]]()
    one = Pass(lambda: model(x, torch.randn(5, 4)), PLACES, 2)
    watch(dict(model.named_children()), one, lambda name, own: seen.append((name, own)))
    assert [name for name, _ in seen] == ["query", "key", "pooler"]
    (_, query), (_, key), (_, pooled) = seen
    assert torch.equal(query, x[PLACES])
    assert key is query, "layers that share an input are told so"
    assert torch.equal(pooled, x[:, 0])


def test_flattened_inputs_have_places_too() -> None:
    layer, x, seen = nn.Linear(4, 4), torch.randn(6, 4), list[Tensor]()
    watch({"layer": layer}, Pass(lambda: layer(x), PLACES, 2), lambda _, own: seen.append(own))
    assert torch.equal(seen[0], x[PLACES.flatten()])


def test_nothing_watches_after_a_pass_that_failed() -> None:
    layer, seen = nn.Linear(4, 4), list[str]()
    with pytest.raises(RuntimeError):
        watch({"layer": layer}, Pass(lambda: layer(torch.randn(2, 5)), PLACES, 2), lambda name, _: seen.append(name))
    layer(torch.randn(2, 4))
    assert seen == ["layer"]


@pytest.mark.parametrize("layer", ["lora", "dora"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_layers_of_rank_zero_leave_the_model_as_it_was(name: str, layer: str) -> None:
    """A checkpoint without factors of some modules: they are plain again, and what was adapted forgets them."""
    base, model = make(name).eval(), make(name).eval()
    method = Method(name="lora", rank=2, layer=layer)
    adapted = inject(model, method, HEADS[name], HEADS[name])
    start(adapted, method.start, 0)
    gone = list(adapted.layers)[::2]
    kept = [own for own in adapted.layers if own not in gone]
    empty_absent(adapted, {f"{own}.{key}": torch.zeros(2, 2) for own in kept for key in "AB"})
    inputs = batch(3)[0]
    torch.testing.assert_close(model(**inputs).logits, base(**inputs).logits)
    remove_empty(model, adapted)
    assert list(adapted.layers) == kept
    torch.testing.assert_close(model(**inputs).logits, base(**inputs).logits)
    names = {own for own, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == adapted.parameters.keys()
    assert {key for key in base.state_dict() if key.rpartition(".")[0] in gone} <= model.state_dict().keys()


def test_layers_with_ranks_stay() -> None:
    model = make("bert")
    adapted = injected(model, Method(name="lora"), HEADS["bert"], HEADS["bert"])
    before = list(adapted.layers)
    remove_empty(model, adapted)
    assert list(adapted.layers) == before


def test_of_layers_with_one_input_the_first_leads() -> None:
    x, other, sharing = torch.ones(2), torch.ones(2), Sharing()
    assert [sharing.leads(name, own) for name, own in (("q", x), ("k", x), ("o", other), ("k", x))] == [
        True, False, True, False,
    ]  # fmt: skip
    assert sharing.leader == {"q": "q", "k": "q", "o": "o"}


def passes_of(sizes: list[int]) -> list[Pass]:
    return [Pass(lambda: None, PLACES, size) for size in sizes]


@pytest.mark.parametrize(("most", "rows", "expected"), [(5, 100.0, 2), (6, 100.0, 2), (7, 100.0, 3), (100, 8.0, 3)])
def test_a_start_sees_as_many_rows_as_it_wants_and_none_twice(most: int, rows: float, expected: int) -> None:
    told = list[str]()
    seen = list(first_passes(Sight(passes_of([3, 3, 3, 3]), told.append, rows), "own", most))
    assert len(seen) == expected
    assert told[0] == f"before the first step, own looks at {min(most, rows):,.0f} training rows"
    assert told[-1] == f"own: {3 * expected} rows"


def test_a_start_without_rows_is_refused() -> None:
    with pytest.raises(InputError, match="there are none"):
        list(first_passes(NOTHING, "own", 4))
