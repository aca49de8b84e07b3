"""Whether a model and its tokenizer fit: positions, token types, tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as t

from reflora_cli.ground.errors import InputError
from reflora_cli.model.base import Base
from reflora_cli.model.fit import check_length, check_tokens, leave_out_types
from reflora_cli.model.sources import Source
from tests.architectures import TINY_IDS
from tests.language_models import tokenizer

SOURCE = Source("tiny", "tiny", None, is_local=True)
SIZES: dict[str, Any] = {
    "vocab_size": 1500, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (t.RobertaConfig(**SIZES, max_position_embeddings=66, **TINY_IDS), 65),
        (t.RobertaConfig(**SIZES, max_position_embeddings=66, **{**TINY_IDS, "pad_token_id": 1}), 64),
        (t.BertConfig(**SIZES, max_position_embeddings=66, **TINY_IDS), 66),
        (t.CanineConfig(**SIZES, max_position_embeddings=96, num_hash_buckets=64, downsampling_rate=2), 64),
    ],
    ids=["roberta", "roberta, pad 1", "bert", "canine"],
)
def test_the_longest_row_is_what_the_model_can_read(config: Any, most: int) -> None:
    model = t.AutoModelForSequenceClassification.from_config(config)
    own = Base(model, tokenizer(), SOURCE, None, (), ())
    check_length(own, most)
    with torch.no_grad():
        model(torch.full((1, most), 5))
    for beyond in (most + 1, 90):
        with pytest.raises(InputError, match=f"at most {most},"):
            check_length(own, beyond)


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (t.BertConfig(**SIZES), True),
        (t.BertConfig(**SIZES, type_vocab_size=1), False),
        (t.DebertaV2Config(**SIZES, type_vocab_size=0), False),
        (t.DistilBertConfig(vocab_size=1500, dim=32, n_layers=1, n_heads=2, hidden_dim=48), False),
    ],
    ids=["two types", "one type", "none", "not taken"],
)
def test_token_types_that_the_model_lacks_are_not_given(config: Any, kept: bool) -> None:
    own = tokenizer()
    own.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    own._tokenizer.post_processor = pair_types()
    leave_out_types(t.AutoModelForSequenceClassification.from_config(config), own)
    assert ("token_type_ids" in own("a", "b")) is kept


def pair_types() -> Any:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])


def test_more_tokens_than_embeddings_are_refused_before_weights_are_read() -> None:
    own = tokenizer()
    check_tokens(t.BertConfig(**SIZES), own, SOURCE)
    own.add_special_tokens({"pad_token": "[PAD]"})
    with pytest.raises(InputError, match="1501 tokens, 1500 embeddings"):
        check_tokens(t.BertConfig(**SIZES), own, SOURCE)
