"""One training step on many architectures, tiny: gradients of every adapter equal PEFT's, whatever a model does with
the output of its linear layers: some change it in place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
import transformers as t
from torch import nn

from reflora_cli.adapters.inject import inject
from reflora_cli.methods import Layer, Method

TINY: dict[str, Any] = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {**TINY, "intermediate_size": 32}
GROUPED = {**WIDE, "num_key_value_heads": 1}
STILL = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
SILENT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}

ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "albert": lambda: t.AlbertForSequenceClassification(
        t.AlbertConfig(**WIDE, **SILENT, embedding_size=8, classifier_dropout_prob=0.0)
    ),
    "bloom": lambda: t.BloomForCausalLM(t.BloomConfig(vocab_size=60, hidden_size=16, n_layer=2, n_head=2, **STILL)),
    "cohere": lambda: t.CohereForCausalLM(t.CohereConfig(**WIDE)),
    "deberta, first": lambda: t.DebertaForSequenceClassification(t.DebertaConfig(**WIDE, **RELATIVE, **SILENT)),
    "distilbert": lambda: t.DistilBertForSequenceClassification(
        t.DistilBertConfig(vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=32, dropout=0.0,
                           attention_dropout=0.0, seq_classif_dropout=0.0)
    ),
    "electra": lambda: t.ElectraForSequenceClassification(t.ElectraConfig(**WIDE, **SILENT, embedding_size=8)),
    "falcon": lambda: t.FalconForCausalLM(t.FalconConfig(**TINY, **STILL)),
    "gemma 3": lambda: t.Gemma3ForCausalLM(t.Gemma3TextConfig(**GROUPED, head_dim=8)),
    "gpt-j": lambda: t.GPTJForCausalLM(
        t.GPTJConfig(vocab_size=60, n_embd=16, n_layer=2, n_head=2, rotary_dim=4, resid_pdrop=0.0, embd_pdrop=0.0,
                     attn_pdrop=0.0)
    ),
    "longformer": lambda: t.LongformerForSequenceClassification(
        t.LongformerConfig(**WIDE, **SILENT, attention_window=[4, 4])
    ),
    "mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**GROUPED, num_local_experts=4)),
    "olmo, clipped": lambda: t.OlmoForCausalLM(t.OlmoConfig(**WIDE, clip_qkv=0.2)),
    "opt": lambda: t.OPTForCausalLM(t.OPTConfig(**TINY, ffn_dim=32, word_embed_proj_dim=16, dropout=0.0)),
    "phi": lambda: t.PhiForCausalLM(t.PhiConfig(**WIDE)),
    "stablelm": lambda: t.StableLmForCausalLM(t.StableLmConfig(**{**WIDE, "num_key_value_heads": 2})),
    "t5 encoder": lambda: t.T5EncoderModel(
        t.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.0)
    ),
    "xlnet": lambda: t.XLNetForSequenceClassification(
        t.XLNetConfig(vocab_size=60, d_model=16, n_layer=2, n_head=2, d_inner=32, dropout=0.0, summary_last_dropout=0.0)
    ),
}  # fmt: skip


def stepped(model: nn.Module) -> torch.Tensor:
    """One forward and backward pass; the loss."""
    output = model(input_ids=torch.arange(16).view(2, 8) + 3)
    loss: torch.Tensor = (output[0].float() * torch.linspace(-1, 1, output[0].numel()).view_as(output[0])).sum()
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("layer", list(Layer))
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_are_those_of_peft(name: str, layer: Layer) -> None:
    torch.manual_seed(0)
    base = ARCHITECTURES[name]().train()
    ours = copy.deepcopy(base)
    adapted = inject(ours, Method(name="lora", rank=2, alpha=3.0, layer=layer), [], [], seed=0)
    config = peft.LoraConfig(r=2, lora_alpha=3.0, target_modules=list(adapted.layers), use_dora=layer is Layer.DORA)
    theirs = peft.get_peft_model(base, config)
    own = dict(theirs.base_model.model.named_modules())
    torch.manual_seed(1)
    with torch.no_grad():
        for path, module in adapted.layers.items():
            own[path].lora_A["default"].weight.copy_(module.A)
            own[path].lora_B["default"].weight.copy_(module.B.normal_(std=0.1))
    assert float(stepped(ours)) == pytest.approx(float(stepped(theirs)), rel=1e-4, abs=1e-7)
    reached = 0
    for path, module in adapted.layers.items():
        factors = ((module.A, own[path].lora_A["default"].weight), (module.B, own[path].lora_B["default"].weight))
        vectors = (
            () if module.magnitude is None else ((module.magnitude, own[path].lora_magnitude_vector["default"].weight),)
        )
        for mine, other in (*factors, *vectors):
            assert (mine.grad is None) == (other.grad is None)
            if mine.grad is not None:
                reached += bool(mine.grad.any())
                torch.testing.assert_close(
                    mine.grad, other.grad, atol=1e-4 * float(other.grad.abs().max()) + 1e-9, rtol=0
                )
    assert reached > len(adapted.layers)


@pytest.mark.parametrize("layer", list(Layer))
@pytest.mark.parametrize("name", ["longformer", "olmo, clipped", "falcon", "phi"])
def test_half_precision_is_near(name: str, layer: Layer) -> None:
    torch.manual_seed(0)
    model = ARCHITECTURES[name]().train()
    adapted = inject(model, Method(name="lora", rank=2, layer=layer), [], [], seed=0)
    found = []
    for half in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            stepped(model)
        gradients = [p.grad for p in adapted.parameters.values() if p.grad is not None]
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    assert (found[0] - found[1]).norm() < 0.1 * found[0].norm()
