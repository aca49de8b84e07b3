"""ONNX graphs compute what their models do in batches of other sizes and lengths than they were traced with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from transformers import PreTrainedModel

from reflora_cli.data.encode import EncodedRow
from reflora_cli.export.onnx_graph import Graph, make_graph
from reflora_cli.export.onnx_rows import batches_of_shapes
from reflora_cli.ground.errors import InputError
from reflora_cli.model.base import Base
from reflora_cli.model.precision import Compute
from reflora_cli.model.sources import Source
from reflora_cli.objectives.sequence import SequenceObjective
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.registry import find_task
from tests.language_models import tokenizer

SIZES: dict[str, Any] = {"vocab_size": 1500, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                         "intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": 0}  # fmt: skip
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
FREE: dict[str, Callable[[], PreTrainedModel]] = {
    "albert": lambda: t.AlbertForSequenceClassification(t.AlbertConfig(**SIZES, embedding_size=8)),
    "deberta v3": lambda: t.DebertaV2ForSequenceClassification(
        t.DebertaV2Config(**SIZES, **RELATIVE, position_biased_input=False, position_buckets=8, share_att_key=True)
    ),
    "distilbert": lambda: t.DistilBertForSequenceClassification(
        t.DistilBertConfig(vocab_size=1500, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=64)
    ),
    "modernbert": lambda: t.ModernBertForSequenceClassification(
        t.ModernBertConfig(**SIZES, global_attn_every_n_layers=2, local_attention=8)
    ),
    "qwen2": lambda: t.Qwen2ForSequenceClassification(t.Qwen2Config(**SIZES, num_key_value_heads=1)),
    "xlnet": lambda: t.XLNetForSequenceClassification(
        t.XLNetConfig(vocab_size=1500, d_model=16, n_layer=2, n_head=2, d_inner=32, pad_token_id=0)
    ),
}
ROWS = [
    EncodedRow(np.array([1, *range(3 + n, 12 + 2 * n), 2], np.int32), np.array([0] * 5 + [1] * (6 + n), np.int32), 0.0)
    for n in range(5)
]
"""Token types as of pairs, whether the model knows them or not: tokenizers give them to models that do not."""


def graph_of(model: PreTrainedModel, path: Path) -> Graph:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15)
    base = Base(model.eval(), tokenizer(), Source("tiny", "tiny", None, is_local=True), None, (), ())
    task = find_task("glue/rte")
    assert isinstance(task, SequenceTask)
    return make_graph(SequenceObjective(task, base, Compute(torch.device("cpu"), torch.float32)), ROWS, 40, path)


@pytest.mark.parametrize("name", FREE)
def test_batch_and_length_are_free(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = graph_of(FREE[name](), tmp_path / "model.onnx")
    assert graph.length is None
    assert graph.largest_difference < 1e-5
    assert ("token_type_ids" in graph.inputs) == (name in ("albert", "xlnet"))


def test_a_model_that_makes_its_length_a_constant_has_it_fixed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = t.FunnelConfig(vocab_size=1500, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=32)
    graph = graph_of(t.FunnelForSequenceClassification(config), tmp_path / "model.onnx")
    assert graph.length == 40


def test_a_model_without_a_graph_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = t.FNetConfig(**{key: value for key, value in SIZES.items() if key != "num_attention_heads"})
    with pytest.raises(InputError, match="fft_fftn"):
        graph_of(t.FNetForSequenceClassification(config), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().out == ""


def test_batches_are_of_many_shapes_and_of_rows_as_the_task_has_them() -> None:
    batches = batches_of_shapes(ROWS, {1, 2}, 40)
    lengths = [[len(row.input_ids) for row in batch] for batch in batches]
    assert {len(batch) for batch in batches} >= {1, 2, 3, 5}
    assert {length for batch in lengths for length in batch} >= {1, 2, 7, 40}
    assert any(len(set(own)) > 1 for own in lengths)
    for row in (row for batch in batches for row in batch if len(row.input_ids) > 2):
        ids = row.input_ids.tolist()
        assert (ids[0], ids[-1]) == (1, 2)
        assert not {1, 2} & {*ids[1:-1]}
        assert row.token_type_ids is not None
        assert sorted(row.token_type_ids.tolist()) == row.token_type_ids.tolist()
    assert max(len(row.input_ids) for batch in batches_of_shapes(ROWS, {1, 2}, 3) for row in batch) == 3
