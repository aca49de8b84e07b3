"""Rows together are read as rows alone, by plain transformers: whichever side a model reads padding on, or both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from torch import nn
from torch.nn import functional as F

from reflora_cli.data.batches import cut
from reflora_cli.data.encode import encode
from reflora_cli.data.pad import Padding
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from reflora_cli.model.base import Base
from reflora_cli.model.classifier import head_modules
from reflora_cli.model.language import load_language_model
from reflora_cli.model.precision import Compute
from reflora_cli.model.sources import Source
from reflora_cli.objectives.causal import causal_padding
from reflora_cli.objectives.reach import unused_modules
from reflora_cli.objectives.sequence import SequenceObjective
from reflora_cli.recipe.sections import ModelSection
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.examples import Example
from reflora_cli.tasks.registry import find_task
from tests.architectures import TINY_IDS
from tests.language_models import tokenizer
from tests.models import injected

SOURCE = Source("tiny", "tiny", None, is_local=True)
CPU = Compute(torch.device("cpu"), torch.float32)
WIDE: dict[str, Any] = {
    "vocab_size": 1500, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 256, **TINY_IDS,
}  # fmt: skip
XLNET = t.XLNetConfig(vocab_size=1500, d_model=32, n_layer=2, n_head=2, d_inner=64, dropout=0.0, **TINY_IDS)
MODELS: dict[str, tuple[Callable[[], Any], Padding]] = {
    "bert": (lambda: t.BertConfig(**WIDE), Padding.RIGHT),
    "xlnet": (lambda: XLNET, Padding.LEFT),
    "fnet": (lambda: t.FNetConfig(**WIDE), Padding.NONE),
}
UNUSED: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "bert": (lambda: t.BertConfig(**WIDE), []),
    "bigbird": (lambda: t.BigBirdConfig(**WIDE), ["bert.pooler"]),
    "longformer": (
        lambda: t.LongformerConfig(**WIDE, attention_window=[8, 8]),
        [f"longformer.encoder.layer.1.attention.self.{name}" for name in ("query", "key", "value")],
    ),
    "jamba": (
        lambda: t.JambaConfig(
            **WIDE, num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, num_experts=2, mamba_d_state=4,
            mamba_dt_rank=2,
        ),
        ["model.layers.0.mamba.dt_proj"],
    ),
}  # fmt: skip


def classifier(config: Any) -> Base:
    torch.manual_seed(0)
    config.num_labels = 2
    model = t.AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15)
    return Base(model, tokenizer(), SOURCE, None, (), head_modules(model))


def objective(own: Base) -> SequenceObjective:
    task = find_task("glue/sst2")
    assert isinstance(task, SequenceTask)
    return SequenceObjective(task, own, CPU)


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_loss_are_those_of_rows_alone(name: str) -> None:
    make, padding = MODELS[name]
    found = objective(classifier(make()))
    assert found.padding is padding
    texts = ("a cup", "the box is small", "no", "a large wooden box stands in the kitchen near the lamp", "a box")
    rows = encode(found.base.tokenizer, [Example((text,), index % 2) for index, text in enumerate(texts)], 64)
    with torch.no_grad():
        model: Any = found.base.model
        alone = torch.cat([model(torch.tensor(row.input_ids[None].astype("int64"))).logits for row in rows])
        torch.testing.assert_close(found.predict(rows, 4), alone, atol=2e-6, rtol=0)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index].input_ids))
        chunks = cut(order, 4, lambda index: found.kind(rows[index]))
        total = sum(found.loss_module(**found.arguments([rows[index] for index in chunk])) for chunk in chunks)
    expected = F.cross_entropy(alone, torch.tensor([0, 1, 0, 1, 0]), reduction="sum")
    assert float(total) == pytest.approx(float(expected), abs=1e-5)


def test_a_head_of_zeros_hides_nothing_and_stays_as_it_is() -> None:
    own = classifier(XLNET)
    heads = [own.model.get_submodule(name) for name in own.head]
    for head in heads:
        for parameter in head.parameters():
            torch.nn.init.zeros_(parameter)
    assert objective(own).padding is Padding.LEFT
    assert not any(parameter.any() for head in heads for parameter in head.parameters())


def test_a_model_that_sees_what_is_to_come_is_refused() -> None:
    with pytest.raises(InputError, match="sees the tokens that it should predict"):
        causal_padding(Base(t.XLNetLMHeadModel(XLNET), tokenizer(), SOURCE, None, (), ()), CPU)


@pytest.mark.parametrize("name", UNUSED)
def test_unused_modules_are_those_without_a_gradient(name: str) -> None:
    make, expected = UNUSED[name]
    own = classifier(make())
    found = objective(own)
    names = [path for path, module in own.model.named_modules() if isinstance(module, torch.nn.Linear)]
    names = [path for path in names if not path.startswith(own.head)]
    before = {path: parameter.clone() for path, parameter in own.model.named_parameters()}
    assert found.unused(names) == expected
    assert all(torch.equal(parameter, before[path]) for path, parameter in own.model.named_parameters())


class Routed(nn.Module):
    """Two blocks of two experts of which the first is sent everything, a layer that is never called, and one whose
    output is not used.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"experts": nn.ModuleList(map(square, range(2)))}) for _ in range(2))
        self.idle, self.aside = square(), square()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.aside(x)
        for block in self.blocks:
            x = block["experts"][0](x)
        return x


def square(_: int = 0) -> nn.Linear:
    return nn.Linear(3, 3)


def test_an_expert_that_another_is_used_instead_of_is_not_unused() -> None:
    model = Routed()
    names = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert unused_modules(model, names, lambda: model(torch.ones(2, 3))) == ["idle", "aside"]
    assert all(module._forward_hooks == {} for module in model.modules())


def test_rwkv_is_the_same_function_with_its_adapters_merged(tmp_path: Path) -> None:
    """In evaluation too, where it would halve the weights of its seventh block but not what is added to them."""
    torch.manual_seed(0)
    model = t.RwkvForCausalLM(t.RwkvConfig(vocab_size=1500, hidden_size=16, num_hidden_layers=7, **TINY_IDS))
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    own: Any = load_language_model(ModelSection(name=str(tmp_path)), None, torch.float32).model
    adapted = injected(own, Method(name="lora", rank=2, targets=("value", "output")), [], [], seed=0)
    for layer in adapted.layers.values():
        torch.nn.init.normal_(layer.B)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        expected = own.eval()(ids).logits
        for path, layer in adapted.layers.items():
            model.get_submodule(path).weight.copy_(layer.merged())
        torch.testing.assert_close(model.eval()(ids).logits, expected, atol=1e-4, rtol=1e-4)
