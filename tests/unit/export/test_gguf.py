"""GGUF files as transformers' reader and the gguf package read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from reflora_cli.adapter_config import PeftConfig
from reflora_cli.adapter_files import AdapterFiles
from reflora_cli.errors import InputError, VerificationError
from reflora_cli.export import gguf as module
from reflora_cli.export.gguf_adapter import write_gguf_adapter
from reflora_cli.export.gguf_names import layout_of
from reflora_cli.sources import BUILTIN
from reflora_cli.tensor_files import tensor_places
from tests.language_models import make, saved

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")


def written(directory: Path, output: Path, kind: Any = "f32") -> Any:
    return module.write_gguf(directory, output / "model.gguf", kind, "test")


def fields(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


@pytest.mark.parametrize("name", ["llama", "llama-tied", "mistral", "qwen2"])
def test_transformers_reads_the_same_model(name: str, tmp_path: Path) -> None:
    """Permuted heads, grouped keys, biases, tied and untied heads."""
    base = saved(name, tmp_path / "base")
    file = written(base, tmp_path)
    assert module.verify_gguf(file, base) <= 1e-4
    names = {tensor.name for tensor in gguf.GGUFReader(file.path).tensors}
    assert ("output.weight" in names) == (name != "llama-tied")
    assert {"token_embd.weight", "blk.1.attn_k.weight", "blk.0.ffn_down.weight", "output_norm.weight"} <= names
    assert ("blk.0.attn_q.bias" in names) == (name == "qwen2")


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_smaller_types_stay_within_their_rounding(kind: str, tmp_path: Path) -> None:
    base = saved("llama", tmp_path / "base")
    file = written(base, tmp_path, kind)
    module.verify_gguf(file, base)
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file.path).tensors}
    assert types["blk.0.attn_q.weight"] == kind.upper()
    assert types["output_norm.weight"] == "F32"
    if kind == "q8_0":  # 48 columns are no multiple of 32
        assert types["blk.0.ffn_down.weight"] == "F16"


def test_a_wrong_tensor_is_found(tmp_path: Path) -> None:
    base = saved("llama", tmp_path / "base")
    file = written(base, tmp_path)
    other = make("llama", seed=1)
    other.save_pretrained(base)
    with pytest.raises(VerificationError):
        module.verify_gguf(file, base)


def test_byte_level_tokenizer(tmp_path: Path) -> None:
    file = written(BUILTIN["tiny-llama"], tmp_path)
    found = fields(file.path)
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert (found["tokenizer.ggml.add_bos_token"], found["tokenizer.ggml.add_eos_token"]) == (True, False)
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN["tiny-llama"])
    assert found["tokenizer.ggml.tokens"] == tokenizer.convert_ids_to_tokens(list(range(1500)))
    assert found["tokenizer.ggml.merges"][0] == "t h"
    assert found["tokenizer.ggml.token_type"][:3] == [3, 3, 3]


def test_tokenizer_with_byte_fallback(shared_data: Path, tmp_path: Path) -> None:
    """A score for every token, the earlier merge the better; bytes and special tokens as such."""
    base = shared_data / "weights" / "stories260K"
    file = written(base, tmp_path)
    assert module.verify_gguf(file, base) <= 1e-4
    found = fields(file.path)
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.add_space_prefix"]) == ("llama", True)
    scores = dict(zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.scores"], strict=True))
    assert 0 == scores["▁t"] > scores["he"] > scores["▁a"]
    assert found["tokenizer.ggml.token_type"][:4] == [2, 3, 3, 6]


def test_llama3_rotary_scaling_is_that_of_transformers() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 5e5 ** (-np.arange(0, 128, 2) / 128)
    np.testing.assert_allclose(plain / module.rope_factors(config), scaled.numpy(), rtol=1e-5)
    assert module.rope_factors(LlamaConfig()) is None


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    base = saved("gpt2", tmp_path / "base")
    with pytest.raises(InputError, match="GPT2LMHeadModel"):
        written(base, tmp_path)


class TestAdapter:
    """LoRA in llama.cpp's format."""

    @staticmethod
    def files(**settings: Any) -> AdapterFiles:
        config = PeftConfig(peft_type="LORA", target_modules=["q_proj", "down_proj"], r=4, lora_alpha=8, **settings)
        tensors = {}
        for path, (out, width) in {"self_attn.q_proj": (32, 32), "mlp.down_proj": (32, 48)}.items():
            rank = config.rank_pattern.get(path, 4)
            tensors[f"model.layers.0.{path}.lora_A.weight"] = torch.randn(rank, width)
            tensors[f"model.layers.0.{path}.lora_B.weight"] = torch.randn(out, rank)
        return AdapterFiles(Path("adapter"), config, tensors, {})

    @pytest.mark.parametrize(
        ("settings", "scales"),
        [
            ({}, (2.0, 2.0)),
            ({"use_rslora": True}, (4.0, 4.0)),
            ({"alpha_pattern": {"down_proj": 2.0}, "rank_pattern": {"mlp.down_proj": 8}}, (2.0, 0.25)),
        ],
    )
    def test_scales_are_right_for_every_tensor(
        self, settings: dict[str, Any], scales: tuple[float, float], tmp_path: Path
    ) -> None:
        """llama.cpp multiplies by alpha over each tensor's own rank."""
        files = self.files(**settings)
        model = make("llama")
        assert write_gguf_adapter(files, model.config, "LlamaForCausalLM", tmp_path / "a.gguf") == 2
        found = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
        layout = layout_of(model.config, "LlamaForCausalLM")
        for (name, path), scale in zip(
            (("attn_q", "self_attn.q_proj"), ("ffn_down", "mlp.down_proj")), scales, strict=True
        ):
            a, b = found[f"blk.0.{name}.weight.lora_a"], found[f"blk.0.{name}.weight.lora_b"]
            A, B = (files.tensors[f"model.layers.0.{path}.lora_{factor}.weight"] for factor in "AB")
            expected = layout.arranged(f"model.layers.0.{path}.weight", scale * B @ A).numpy()
            np.testing.assert_allclose(8 / a.shape[0] * b @ a, expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        ("settings", "words"), [({"use_dora": True}, "DoRA"), ({"modules_to_save": ["lm_head"]}, "trained whole")]
    )
    def test_what_has_no_place_is_refused(self, settings: dict[str, Any], words: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=words) as caught:
            write_gguf_adapter(self.files(**settings), make("llama").config, "LlamaForCausalLM", tmp_path / "a.gguf")
        assert "--format gguf" in str(caught.value)


def test_every_tensor_of_a_directory_is_read(tmp_path: Path) -> None:
    """Our own reader of safetensors against the library's, in one file and in several."""
    model = make("qwen2")
    for size in ("5GB", "40KB"):
        model.save_pretrained(tmp_path / size, max_shard_size=size)
        places = tensor_places(tmp_path / size)
        state = AutoModelForCausalLM.from_pretrained(tmp_path / size).state_dict()
        assert set(places) == set(state) - ({"lm_head.weight"} if model.config.tie_word_embeddings else set())
        assert all(torch.equal(place.read(), state[name]) for name, place in places.items())
