"""What an adapter's files say of layers whose base was moved: their ranks and scales, also where modules differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from reflora_cli.adapter_io.config import NamedBase
from reflora_cli.adapter_io.files import (
    AdapterFiles,
    adapter_tensors,
    read_adapter,
    write_adapter,
    write_adapter_config,
)
from reflora_cli.adapter_io.formats import adapter_config, format_of
from reflora_cli.adapter_io.loading import load_adapter
from reflora_cli.adapter_io.lora import lora_config, trained_rank_and_alpha
from reflora_cli.adapters.frozen import freeze
from reflora_cli.adapters.inject import attach
from reflora_cli.adapters.lora import LoRALinear
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.factors.pair import scaling_factor
from reflora_cli.methods.axes import Scaling
from reflora_cli.methods.method import Method
from reflora_cli.training.earlier import settings_of
from tests import language_models

PATHS = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in (0, 1) for name in "qkv"]


def written(
    directory: Path, ranks: dict[str, int], method: Method, offsets: Sequence[int]
) -> tuple[nn.Module, AdapterFiles]:
    """A model whose layers have these ranks, their bases moved by such offsets, and its adapter as read back."""
    model = language_models.make("llama")
    layers = {}
    scale = scaling_factor(method.scaling, method.alpha, method.rank)
    for (name, rank), offset in zip(ranks.items(), offsets, strict=True):
        frozen = freeze(model.get_submodule(name))
        layers[name] = LoRALinear(
            frozen, (torch.randn(rank, frozen.in_features), torch.randn(frozen.out_features, rank)), scale, 0.0
        )
        if offset:
            layers[name].move(torch.randn(offset, frozen.in_features), torch.randn(frozen.out_features, offset))
    adapted = attach(model, layers, [], {})
    config = adapter_config(model, adapted, method, [], NamedBase("base", None), "CAUSAL_LM")
    write_adapter_config(directory, config, format_of(adapted).record(adapted))
    write_adapter(directory, adapter_tensors(model, adapted, []))
    return model, read_adapter(directory)


@pytest.mark.parametrize("scaling", list(Scaling))
@pytest.mark.parametrize("alpha", [1.0, 3.0, 7.3])
@pytest.mark.parametrize("rank", [3, 4, 7])
def test_the_file_s_alpha_gives_the_layer_s_scale_exactly(
    rank: int, alpha: float, scaling: Scaling, tmp_path: Path
) -> None:
    """With an offset the file's rank is another one, and so is its alpha; the scale must not differ in its last bit."""
    method = Method(name="lora", rank=rank, alpha=alpha, scaling=scaling)
    model, files = written(tmp_path, dict.fromkeys(PATHS, rank), method, [rank] * len(PATHS))
    assert lora_config(files).r == 2 * rank
    again = load_adapter(language_models.make("llama"), files, [])
    for name, layer in again.layers.items():
        own = model.get_submodule(name)
        assert isinstance(layer, LowRankLayer)
        assert isinstance(own, LowRankLayer)
        assert torch.tensor(layer.scale) == torch.tensor(own.scale)
        assert layer.scale == pytest.approx(own.scale, rel=1e-15)
        assert torch.equal(layer.frozen.dense(), own.frozen.dense())
    found = settings_of(files)
    assert (found["rank"], found["scaling"]) == (rank, scaling)
    assert found["alpha"] == pytest.approx(alpha, rel=1e-14)


def test_trained_ranks_are_counted_by_module(tmp_path: Path) -> None:
    """The most common rank of tensors (4) less the most common offset (2) is not the rank that most modules train."""
    method = Method(name="lora", rank=3, alpha=3.3)
    ranks, offsets = dict(zip(PATHS, (3, 3, 3, 2, 2, 1), strict=True)), (1, 2, 0, 2, 2, 3)
    _, files = written(tmp_path, ranks, method, offsets)
    assert lora_config(files).r == 4
    assert trained_rank_and_alpha(files) == (3, 3.3)
    again = load_adapter(language_models.make("llama"), files, [])
    assert {name: layer.pairs(name)[0].rank for name, layer in again.layers.items()} == ranks
    assert [layer.offset_rank for layer in again.layers.values() if isinstance(layer, LowRankLayer)] == [*offsets]


def test_without_an_offset_the_config_s_own_are_taken(tmp_path: Path) -> None:
    method = Method(name="lora", rank=2, alpha=3.0)
    _, files = written(tmp_path, dict(zip(PATHS, (2, 2, 2, 2, 5, 1), strict=True)), method, [0] * len(PATHS))
    assert trained_rank_and_alpha(files) == (2, 3.0) == (lora_config(files).r, lora_config(files).lora_alpha)
