"""Every exported architecture: the file computes what transformers does, and a setting that it cannot hold is refused.

Where llama-cpp-python is installed, llama.cpp itself computes two of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from reflora_cli.adapter_io.files import read_adapter
from reflora_cli.export.gguf_adapter import write_gguf_adapter
from reflora_cli.export.gguf_architectures import ARCHITECTURES
from reflora_cli.export.gguf_config import graph_notes
from reflora_cli.export.gguf_forward import GgufModel
from reflora_cli.export.gguf_names import layout_of
from reflora_cli.export.gguf_verify import verify_gguf
from reflora_cli.ground.errors import InputError, VerificationError
from tests.unit.export.test_gguf import kept, written

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")

TEXT = torch.arange(40) * 37 % 1400
IDS = {"vocab_size": 1500, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
PLAIN = {
    **IDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 128,
}  # fmt: skip
WIDE_HEADS = {**PLAIN, "head_dim": 12}
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
GEMMA = {**WIDE_HEADS, "query_pre_attn_scalar": 12, "sliding_window": 9}
GEMMA2 = {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
GEMMA3 = {**GEMMA, "num_hidden_layers": 7}
LOCAL = {"rope_type": "default", "rope_theta": 1e4}
GLOBAL = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 64,
    "short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 4.0, 8.0],
}  # fmt: skip
PHI = {**PLAIN, "original_max_position_embeddings": 64}
GPT = {
    **IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 48, "resid_pdrop": 0.0,
    "embd_pdrop": 0.0, "attn_pdrop": 0.0,
}  # fmt: skip


def model(config: str, settings: Mapping[str, Any]) -> PreTrainedModel:
    """A random model of a configuration of transformers, named without its `Config`."""
    made = getattr(transformers, f"{config}Config")(**settings)
    found: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32)
    return found.eval()


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3", {**WIDE_HEADS, **UNTIED}),
    "qwen3-tied": ("Qwen3", {**WIDE_HEADS, **TIED}),
    "smollm3": ("SmolLM3", {**PLAIN, "num_hidden_layers": 4}),
    "phi3": ("Phi3", {**PLAIN, **UNTIED}),
    "phi3-long": ("Phi3", {**PHI, **TIED, "rope_parameters": LONG}),
    "phi3-short": ("Phi3", {**PHI, "max_position_embeddings": 64, "rope_parameters": LONG}),
    "phi3-window": ("Phi3", {**PLAIN, "sliding_window": 30}),
    "gemma": ("Gemma", WIDE_HEADS),
    "gemma2": ("Gemma2", GEMMA2),
    "gemma3": ("Gemma3Text", GEMMA3),
    "gemma3-linear": (
        "Gemma3Text",
        {**GEMMA3, "final_logit_softcapping": 3.0,
         "rope_parameters": {"sliding_attention": LOCAL, "full_attention": GLOBAL}},
    ),
    "gpt2": ("GPT2", GPT),
    "gpt2-untied": ("GPT2", {**GPT, **UNTIED, "n_inner": None}),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_file_computes_what_transformers_does(name: str, tmp_path: Path) -> None:
    base = kept(model(*MODELS[name]), tmp_path / "base")
    file, request = written(base, tmp_path)
    assert verify_gguf(file, request) <= 1e-3
    names = {tensor.name for tensor in gguf.GGUFReader(file.path).tensors}
    tied = json.loads((base / "config.json").read_text())["tie_word_embeddings"]
    assert ("output.weight" in names) == (not tied)


def test_every_architecture_is_tried() -> None:
    tried = {type(model(*one)).__name__ for one in MODELS.values()}
    assert tried | {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"} == set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("qwen3", {"rms_norm_eps": 0.1}),
        ("phi3-long", {"rope_parameters": {**LONG, "long_factor": [2.0, 4.0, 9.0]}}),
        ("phi3-short", {"rope_parameters": {**LONG, "short_factor": [1.0, 1.5, 3.0]}}),
        ("phi3-long", {"rope_parameters": {**LONG, "attention_factor": 1.5}}),
        ("gemma2", {"sliding_window": 10}),
        ("gemma2", {"attn_logit_softcapping": 2.5}),
        ("gemma2", {"final_logit_softcapping": 3.5}),
        ("gemma3", {"sliding_window": 10}),
        ("gemma3-linear", {"rope_parameters": {"sliding_attention": LOCAL, "full_attention": {**GLOBAL, "factor": 9}}}),
        ("gpt2", {"layer_norm_epsilon": 0.1}),
    ],
)
def test_the_check_sees_each_number_of_the_file(name: str, changed: dict[str, Any], tmp_path: Path) -> None:
    base = kept(model(*MODELS[name]), tmp_path / "base")
    file, request = written(base, tmp_path)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **changed}))
    with pytest.raises(VerificationError, match="does not compute"):
        verify_gguf(file, request)


@pytest.mark.parametrize(("name", "kind"), [("gemma3", "f16"), ("phi3", "bf16"), ("gpt2", "q8_0")])
def test_smaller_types_hold_the_same_graph(name: str, kind: str, tmp_path: Path) -> None:
    """Matrices that transformers keeps transposed have rows of another length; positions stay float32."""
    base = kept(model(*MODELS[name]), tmp_path / "base")
    file, request = written(base, tmp_path, kind)
    assert verify_gguf(file, request) > 1e-4
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file.path).tensors}
    assert types["blk.0.ffn_up.weight"] == kind.upper()
    if name == "gpt2":
        assert types["position_embd.weight"] == "F32"
        assert types["blk.0.ffn_down.weight"] == "F16"  # 48 columns are no multiple of 32


@pytest.mark.parametrize(
    ("config", "settings", "words"),
    [
        ("Qwen3", {**WIDE_HEADS, "attention_bias": True}, "attention_bias"),
        ("SmolLM3", {**PLAIN, "mlp_bias": True}, "mlp_bias"),
        ("SmolLM3", {**PLAIN, "no_rope_layers": [1, 0]}, "no_rope_layers"),
        ("SmolLM3", {**PLAIN, "rope_parameters": {**LOCAL, "partial_rotary_factor": 0.5}}, "whole heads"),
        ("Gemma", {**WIDE_HEADS, "hidden_act": "relu"}, "GELU"),
        ("Gemma2", {**GEMMA2, "query_pre_attn_scalar": 8}, "query_pre_attn_scalar"),
        ("Gemma2", {**GEMMA2, "attn_logit_softcapping": None}, "attn_logit_softcapping"),
        ("Gemma2", {**GEMMA2, "layer_types": ["full_attention"] * 2}, "layer_types"),
        ("Gemma2", {**GEMMA2, "hidden_activation": "gelu"}, "GELU by tanh"),
        ("Gemma3Text", {**GEMMA3, "attn_logit_softcapping": 2.0}, "attn_logit_softcapping"),
        ("Gemma3Text", {**GEMMA3, "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (
            "Gemma3Text",
            {**GEMMA3, "rope_parameters": {"sliding_attention": {**LOCAL, "rope_theta": 2e4}, "full_attention": LOCAL}},
            "sliding_attention",
        ),
        ("GPT2", {**GPT, "activation_function": "relu"}, "activation_function"),
        ("GPT2", {**GPT, "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("GPT2", {**GPT, "scale_attn_weights": False}, "scale_attn_weights"),
    ],
)
def test_what_the_graph_does_not_do_is_refused(config: str, settings: dict[str, Any], words: str) -> None:
    one = model(config, settings)
    with pytest.raises(InputError, match=words):
        layout_of(one.config, type(one).__name__)


def test_the_largest_gemmas_scale_attention_by_a_share_of_the_width() -> None:
    """llama.cpp knows them by their number of blocks."""
    settings = {**GEMMA2, "num_hidden_layers": 46, "head_dim": 16, "query_pre_attn_scalar": 8}
    assert layout_of(transformers.Gemma2Config(**settings), "Gemma2ForCausalLM").blocks == 46
    with pytest.raises(InputError, match="query_pre_attn_scalar"):
        layout_of(transformers.Gemma2Config(**{**settings, "query_pre_attn_scalar": 16}), "Gemma2ForCausalLM")


def test_a_head_of_its_own_is_refused_where_llama_cpp_has_none(tmp_path: Path) -> None:
    base = kept(model("Gemma2", {**GEMMA2, **UNTIED}), tmp_path / "base")
    with pytest.raises(InputError, match=r"lm_head\.weight"):
        written(base, tmp_path)


def test_what_texts_can_avoid_is_said() -> None:
    windowed = transformers.Phi3Config(**MODELS["phi3-window"][1])
    (note,) = graph_notes(windowed, ARCHITECTURES["Phi3ForCausalLM"])
    assert "30 tokens" in note
    long = transformers.Phi3Config(**MODELS["phi3-long"][1])
    (note,) = graph_notes(long, ARCHITECTURES["Phi3ForCausalLM"])
    assert "context of 64" in note
    assert graph_notes(transformers.GPT2Config(**GPT), ARCHITECTURES["GPT2LMHeadModel"]) == ()


def adapted(one: PreTrainedModel, directory: Path) -> peft.PeftModel:
    """The model with a random LoRA of PEFT on all linear layers of its blocks, kept in a directory."""
    config = peft.LoraConfig(r=3, lora_alpha=12, target_modules=linear_names(one), task_type="CAUSAL_LM")
    made = peft.get_peft_model(one, config)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    made.save_pretrained(directory)
    return made


def linear_names(one: PreTrainedModel) -> list[str]:
    """The last names of all matrices inside of blocks."""
    modules = (name for name, own in one.named_modules() if getattr(own, "weight", None) is not None)
    return sorted(
        {name.rpartition(".")[2] for name in modules if (".layers." in name or ".h." in name) and "norm" not in name}
        - {"ln_1", "ln_2"}
    )


class WithAdapter(GgufModel):
    """A file's model with an adapter file on it, as llama.cpp adds them at run time."""

    def __init__(self, path: Path, adapter: Path) -> None:
        super().__init__(path)
        reader = gguf.GGUFReader(adapter)
        assert reader.fields["general.architecture"].contents() == self.graph.name
        self.alpha = reader.fields["adapter.lora.alpha"].contents()
        self.pairs = {tensor.name: torch.from_numpy(np.array(tensor.data)) for tensor in reader.tensors}
        unknown = {name.rpartition(".")[0] for name in self.pairs} - set(self.tensors)
        assert not unknown

    def tensor(self, name: str) -> torch.Tensor:
        found = super().tensor(name)
        if f"{name}.lora_a" not in self.pairs:
            return found
        a, b = self.pairs[f"{name}.lora_a"], self.pairs[f"{name}.lora_b"]
        return found + self.alpha / len(a) * b @ a


@pytest.mark.parametrize("name", ["qwen3", "smollm3", "phi3", "gemma", "gemma2", "gemma3", "gpt2"])
def test_an_adapter_file_on_the_base_s_file_is_peft_s_model(name: str, tmp_path: Path) -> None:
    base = kept(model(*MODELS[name]), tmp_path / "base")
    one = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    file, _ = written(base, tmp_path)
    made = adapted(one, tmp_path / "adapter").eval()
    plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    count = write_gguf_adapter(read_adapter(tmp_path / "adapter"), plain, tmp_path / "adapter.gguf")
    assert count == sum("lora_A" in key for key in made.state_dict())
    with torch.no_grad():
        expected, before = made(TEXT[None]).logits[0], plain(TEXT[None]).logits[0]
    found = WithAdapter(file.path, tmp_path / "adapter.gguf").logits(TEXT, torch.arange(len(TEXT)))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert (expected - before).abs().max() > 0.1


@pytest.mark.parametrize(("name", "accepted"), [("qwen3-tied", 1e-3), ("gemma3", 0.05)])
def test_llama_cpp_itself_computes_the_same(name: str, accepted: float, tmp_path: Path) -> None:
    """It rounds GELU to half precision, as this package's check does not."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    base = kept(model(*MODELS[name]), tmp_path / "base")
    file, _ = written(base, tmp_path)
    single = {"type_k": 0, "type_v": 0, "flash_attn": False}
    loaded = llama_cpp.Llama(str(file.path), n_ctx=128, logits_all=True, verbose=False, n_threads=1, **single)
    loaded.eval(TEXT.tolist())
    found = loaded.scores[: len(TEXT)].copy()
    loaded.close()
    plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        expected = plain(TEXT[None]).logits[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=accepted * np.abs(expected).max())
