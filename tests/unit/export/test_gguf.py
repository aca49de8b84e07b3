"""GGUF files as llama.cpp reads them, rebuilt here from its sources, and the gguf package."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from reflora_cli.adapter_io.files import AdapterFiles
from reflora_cli.adapter_io.lora import LoraConfig
from reflora_cli.adapter_io.tensor_files import tensor_places
from reflora_cli.export import gguf as module
from reflora_cli.export.gguf_adapter import write_gguf_adapter
from reflora_cli.export.gguf_names import layout_of
from reflora_cli.export.gguf_rope import rope_of
from reflora_cli.export.gguf_tokenizer import convert_tokenizer
from reflora_cli.export.gguf_types import GgufType
from reflora_cli.export.gguf_verify import verify_gguf
from reflora_cli.ground.errors import InputError, VerificationError
from tests.architectures import DECODERS
from tests.language_models import make, saved, tokenizer

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
GROUPED = {name: value for name, value in DECODERS["llama"].settings.items() if name != "tie_word_embeddings"}
QWEN = {name: value for name, value in GROUPED.items() if name != "head_dim"}


def written(directory: Path, output: Path, kind: str = "f32") -> tuple[Any, Any]:
    """A file, and what was asked for."""
    size = AutoConfig.from_pretrained(directory).vocab_size
    converted = convert_tokenizer(AutoTokenizer.from_pretrained(directory), size)
    request = module.GgufRequest(directory, output / "model.gguf", GgufType(kind), converted, "{{ messages }}", "test")
    return module.write_gguf(request), request


def fields(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def kept(model: PreTrainedModel, directory: Path) -> Path:
    """A random model with strong weights, as a checkpoint."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3 if name.endswith("bias") else 0.15)
            if parameter.ndim == 1 and not name.endswith("bias"):
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


@pytest.mark.parametrize("name", ["llama", "llama-tied", "mistral", "qwen2"])
def test_llama_cpp_computes_the_same_model(name: str, tmp_path: Path) -> None:
    """Permuted heads, grouped keys, biases, tied and untied heads."""
    base = saved(name, tmp_path / "base")
    file, request = written(base, tmp_path)
    assert verify_gguf(file, request) <= 1e-4
    names = {tensor.name for tensor in gguf.GGUFReader(file.path).tensors}
    assert ("output.weight" in names) == (name != "llama-tied")
    assert {"token_embd.weight", "blk.1.attn_k.weight", "blk.0.ffn_down.weight", "output_norm.weight"} <= names
    assert ("blk.0.attn_q.bias" in names) == (name == "qwen2")


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, rope_parameters=LLAMA3, attention_bias=True)), "f32"),
        (lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, rope_parameters=LLAMA3, mlp_bias=True)), "q8_0"),
        (lambda: LlamaForCausalLM(LlamaConfig(**{**GROUPED, "head_dim": 16}, rope_parameters=YARN)), "bf16"),
        (lambda: Qwen2ForCausalLM(Qwen2Config(**QWEN, rope_parameters=YARN)), "f16"),
        (lambda: Qwen2ForCausalLM(Qwen2Config(**QWEN, rope_parameters=LINEAR)), "q8_0"),
    ],
)
def test_scalings_and_biases_are_computed_in_every_type(model: Any, kind: str, tmp_path: Path) -> None:
    """The check compares with the rounded weights to 1e-4, so that it sees a wrong computation in any type."""
    base = kept(model(), tmp_path / "base")
    file, request = written(base, tmp_path, kind)
    verify_gguf(file, request)
    path = base / "config.json"
    config = json.loads(path.read_text())
    config["rope_parameters"]["factor"] *= 1.5
    path.write_text(json.dumps(config))
    with pytest.raises(VerificationError, match="does not compute"):
        verify_gguf(file, request)


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_smaller_types_stay_within_their_rounding(kind: str, tmp_path: Path) -> None:
    base = saved("llama", tmp_path / "base")
    file, request = written(base, tmp_path, kind)
    assert verify_gguf(file, request) > 1e-4
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file.path).tensors}
    assert types["blk.0.attn_q.weight"] == kind.upper()
    assert types["output_norm.weight"] == "F32"
    if kind == "q8_0":  # 48 columns are no multiple of 32
        assert types["blk.0.ffn_down.weight"] == "F16"


def test_a_wrong_tensor_is_found(tmp_path: Path) -> None:
    base = saved("llama", tmp_path / "base")
    file, request = written(base, tmp_path)
    other = make("llama", seed=1)
    other.save_pretrained(base)
    with pytest.raises(VerificationError):
        verify_gguf(file, request)


def test_a_head_of_its_own_under_a_tied_config_is_kept(tmp_path: Path) -> None:
    """transformers does not tie two tensors that differ."""
    base = saved("llama", tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    file, request = written(base, tmp_path)
    assert verify_gguf(file, request) <= 1e-4
    assert "output.weight" in {tensor.name for tensor in gguf.GGUFReader(file.path).tensors}


def test_weights_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    model = make("llama")
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 1e5
    model.save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match="bf16"):
        written(tmp_path / "base", tmp_path, "f16")


@pytest.mark.parametrize(
    ("config", "class_name", "words"),
    [
        (LlamaConfig(**GROUPED, hidden_act="gelu"), "LlamaForCausalLM", "SiLU"),
        (MistralConfig(**GROUPED, hidden_act="relu"), "MistralForCausalLM", "SiLU"),
        (MistralConfig(**GROUPED, sliding_window=16), "MistralForCausalLM", "texts of up to 16 tokens"),
        (
            Qwen2Config(**QWEN, use_sliding_window=True, sliding_window=16, max_window_layers=1),
            "Qwen2ForCausalLM",
            "window",
        ),
        (Qwen2Config(**QWEN, rope_parameters=LLAMA3), "Qwen2ForCausalLM", "divisors"),
        (Qwen2Config(**GROUPED | {"head_dim": 16}), "Qwen2ForCausalLM", "head_dim"),
        (
            LlamaConfig(**GROUPED, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            "LlamaForCausalLM",
            "dynamic",
        ),
        (LlamaConfig(**GROUPED, rope_parameters={**YARN, "attention_factor": 2.0}), "LlamaForCausalLM", "1.1386"),
        (LlamaConfig(**GROUPED, rope_parameters={**YARN, "truncate": False}), "LlamaForCausalLM", "truncate"),
        (
            LlamaConfig(
                **GROUPED, rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
            ),
            "LlamaForCausalLM",
            "whole heads",
        ),
        (LlamaConfig(**GROUPED, is_encoder_decoder=True), "LlamaForCausalLM", "is_encoder_decoder"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(config: Any, class_name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        layout_of(config, class_name)
    assert "remedy" in str(caught.value)


@pytest.mark.parametrize(
    ("config", "class_name"),
    [
        (MistralConfig(**GROUPED, sliding_window=256), "MistralForCausalLM"),
        (Qwen2Config(**QWEN, use_sliding_window=False, sliding_window=16), "Qwen2ForCausalLM"),
        (LlamaConfig(**GROUPED, attention_multiplier=0.5), "LlamaForCausalLM"),
    ],
)
def test_settings_without_an_effect_are_accepted(config: Any, class_name: str) -> None:
    """A window as long as the context, a window that is off, a field that the class does not read."""
    assert layout_of(config, class_name).blocks == 2


def test_llama3_rotary_scaling_is_that_of_transformers() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {**LLAMA3, "original_max_position_embeddings": 8192}
    config = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 5e5 ** (-np.arange(0, 128, 2) / 128)
    divisors = rope_of(config).divisors()
    assert divisors is not None
    np.testing.assert_allclose(plain / divisors, scaled.numpy(), rtol=1e-5)
    assert rope_of(LlamaConfig()).divisors() is None


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    base = saved("gpt-neo", tmp_path / "base")
    with pytest.raises(InputError, match="GPTNeoForCausalLM") as caught:
        written(base, tmp_path)
    assert "Gemma3ForCausalLM, GPT2LMHeadModel" in str(caught.value)


class TestAdapter:
    """LoRA in llama.cpp's format."""

    @staticmethod
    def files(**settings: Any) -> AdapterFiles:
        config = LoraConfig(peft_type="LORA", target_modules=["q_proj", "down_proj"], r=4, lora_alpha=8, **settings)
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
        assert write_gguf_adapter(files, model, tmp_path / "a.gguf") == 2
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
            write_gguf_adapter(self.files(**settings), make("llama"), tmp_path / "a.gguf")
        assert "--format gguf" in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "module", "factors", "words"),
        [
            ("llama-tied", "lm_head", "lora_{}.weight", "tied"),
            ("llama", "model.embed_tokens", "lora_{}.weight", "embedding"),
            ("llama", "model.embed_tokens", "lora_embedding_{}", "lora_embedding_A"),
            ("llama", "model.layers.0.self_attn.q_proj", "lora_{}.bias", "lora_A.bias"),
        ],
    )
    def test_modules_that_llama_cpp_does_not_adapt_are_refused(
        self, name: str, module: str, factors: str, words: str, tmp_path: Path
    ) -> None:
        """llama.cpp would refuse the whole adapter, or read it as another."""
        files = self.files()
        for factor, shape in {"A": (4, 32), "B": (1500, 4)}.items():
            files.tensors[f"{module}.{factors.format(factor)}"] = torch.randn(shape)
        with pytest.raises(InputError, match=words) as caught:
            write_gguf_adapter(files, make(name), tmp_path / "a.gguf")
        assert "--format gguf" in str(caught.value)
        assert not list(tmp_path.iterdir())

    def test_an_untied_head_is_adapted(self, tmp_path: Path) -> None:
        files = self.files()
        files.tensors["lm_head.lora_A.weight"] = torch.randn(4, 32)
        files.tensors["lm_head.lora_B.weight"] = torch.randn(1500, 4)
        assert write_gguf_adapter(files, make("llama"), tmp_path / "a.gguf") == 3
        names = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
        assert "output.weight.lora_a" in names


def test_a_name_tells_llama_cpp_what_is_true_of_the_tokenizer(tmp_path: Path) -> None:
    """It concludes from parts of a name that special tokens swallow spaces."""
    base = saved("llama", tmp_path / "base")
    _, request = written(base, tmp_path)
    plain = request.tokenizer
    swallowing = replace(plain, tokenizer=replace(plain.tokenizer, swallows_spaces=True))
    shown = {
        (name, converted is plain): module.shown_name(replace(request, name=name, tokenizer=converted))
        for name in ("mine", "my-Phi-3")
        for converted in (plain, swallowing)
    }
    assert shown == {
        ("mine", True): "mine", ("mine", False): "mine (of phi-3)",
        ("my-Phi-3", True): "", ("my-Phi-3", False): "my-Phi-3",
    }  # fmt: skip


def test_every_tensor_of_a_directory_is_read(tmp_path: Path) -> None:
    """Our own reader of safetensors against the library's, in one file and in several."""
    model = make("qwen2")
    for size in ("5GB", "40KB"):
        model.save_pretrained(tmp_path / size, max_shard_size=size)
        places = tensor_places(tmp_path / size)
        state = AutoModelForCausalLM.from_pretrained(tmp_path / size).state_dict()
        assert set(places) == set(state) - ({"lm_head.weight"} if model.config.tie_word_embeddings else set())
        assert all(torch.equal(place.read(), state[name]) for name, place in places.items())
