"""Small random transformers models with a sequence-classification head, one per layout we must handle."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

VOCABULARY = 60


def bert() -> PreTrainedModel:
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def deberta() -> PreTrainedModel:
    config = DebertaV2Config(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False, pooler_hidden_size=16,
        pooler_dropout=0.0, type_vocab_size=0,
    )  # fmt: skip
    return DebertaV2ForSequenceClassification(config)


def gpt2() -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32, num_labels=3, pad_token_id=0,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return GPT2ForSequenceClassification(config)


def llama() -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, max_position_embeddings=32, num_labels=3, pad_token_id=0,
    )  # fmt: skip
    return LlamaForSequenceClassification(config)


MODELS = {"bert": bert, "deberta": deberta, "gpt2": gpt2, "llama": llama}
HEADS = {"bert": ["classifier"], "deberta": ["classifier", "pooler"], "gpt2": ["score"], "llama": ["score"]}


def make(name: str, seed: int = 0) -> PreTrainedModel:
    """The model with weights large enough that adapters and attention matter."""
    torch.manual_seed(seed)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.3)
    return model


def batch(seed: int = 0, rows: int = 6, length: int = 9) -> tuple[dict[str, Tensor], Tensor]:
    """Padded inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, length - row % 4 :] = 0
    ids = ids * mask
    return {"input_ids": ids, "attention_mask": mask}, torch.randint(0, 3, (rows,), generator=generator)
