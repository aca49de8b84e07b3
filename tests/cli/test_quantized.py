"""Quantized bases through the whole command line, and merging them with and without their quantization."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file

from reflora_cli.adapters.quantized import QuantizedWeight
from reflora_cli.recipe.files import load_recipe
from reflora_cli.runs.restore import restore
from tests.cli.conftest import FEW, Outcome, Reflora
from tests.language_models import saved

RECIPE: dict[str, Any] = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32", "quantization": "nf4"},
    "method": {"name": "reflora", "rank": 4, "alpha": 8.0, "refactor": {"warmup_steps": 3}},
    "task": {"name": "builtin/questions", "max_length": 48, "max_train_rows": 192, "max_eval_rows": 40},
    "train": {"epochs": 1, "batch_size": 32, "learning_rate": 3e-3, "checkpoint_every": 3},
    "eval": {"protocol": "choices"},
}
METHODS = ("lora", "dora", "reflora", "reflora-s")
KINDS = ("nf4", "fp4", "int8")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "quantized.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def quantized(reflora: Reflora, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "quantized"
    outcome = reflora("train", recipe, "--output", output)
    assert outcome.status == 0, outcome.err
    return output


def trained(reflora: Reflora, recipe: Path, output: Path, *overrides: str) -> Outcome:
    outcome = reflora("train", recipe, *overrides, "--output", output, "--json")
    assert outcome.status == 0, outcome.err
    return outcome


def test_linear_layers_are_quantized_and_the_rest_is_not(quantized: Path) -> None:
    restored = restore(load_recipe(str(quantized / "recipe.yaml"), []), quantized / "adapter")
    kinds = {name: type(module) for name, module in restored.base.model.named_modules()}
    weights = [name for name, kind in kinds.items() if issubclass(kind, QuantizedWeight)]
    assert len(weights) == 35
    assert kinds["lm_head"] is torch.nn.Linear
    dense = {parameter.dtype for name, parameter in restored.base.model.named_parameters() if ".frozen." not in name}
    assert dense == {torch.float32}


def test_results_tell_the_bits(quantized: Path) -> None:
    results = json.loads((quantized / "results.json").read_text())
    assert results["quantization"] == "nf4"
    assert results["bits_per_weight"] == pytest.approx(4.13, abs=0.02)
    assert results["total_parameters"] > 1_176_448


@pytest.mark.parametrize(
    ("method", "dtype"), [*((method, "float32") for method in METHODS), ("dora", "bfloat16"), ("reflora", "bfloat16")]
)
def test_every_method_merges_onto_what_it_was_trained_on(
    method: str, dtype: str, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    settings = (f"method.name={method}", f"model.dtype={dtype}", *(FEW if dtype == "bfloat16" else ()))
    trained(reflora, recipe, tmp_path / "run", *settings)
    merged = reflora("merge", tmp_path / "run", "--dtype", "float32", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["streamed"]
    if dtype == "float32":
        assert merged.json["largest_difference"] <= 1e-4
        assert merged.json["changed_predictions"] == 0


@pytest.mark.parametrize("kind", ["none", *KINDS])
@pytest.mark.parametrize("method", ["dora", "reflora"])
def test_every_quantization_merges_for_classifiers(
    method: str, kind: str, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    arguments = ("task.name=builtin/entailment", f"method.name={method}", f"model.quantization={kind}")
    trained(reflora, recipe, tmp_path / "run", *arguments)
    merged = reflora("merge", tmp_path / "run", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["largest_difference"] <= 1e-4
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "merged")
    assert loaded.config.id2label == {0: "entailment", 1: "not_entailment"}


@pytest.mark.parametrize("name", ["gpt2", "gpt-neox", "gemma2", "llama-tied", "qwen2"])
def test_other_architectures(name: str, recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """GPT-2's transposed layers, biases, tied embeddings; GPT-NeoX's files name its head otherwise than the model, with
    most versions of transformers: then nothing can be streamed."""
    base = saved(name, tmp_path / "base")
    trained(reflora, recipe, tmp_path / "run", f"model.name={base}", "train.steps=4", "method.name=dora")
    merged = reflora("merge", tmp_path / "run", "--json")
    assert merged.status == 0, merged.err
    own_names = transformers.AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert merged.json["streamed"] == (load_file(base / "model.safetensors").keys() <= own_names.keys())
    assert merged.json["largest_difference"] <= 1e-4


def test_original_weights_are_a_choice_whose_price_is_told(quantized: Path, reflora: Reflora, tmp_path: Path) -> None:
    merged = reflora("merge", quantized, "--base-weights", "original", "--output", tmp_path / "merged", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["largest_difference"] <= 1e-4
    assert merged.json["quantization_difference"]["largest"] > 0.01
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    base = load_file(Path("reflora_cli/builtin/tiny_llama/model.safetensors"))
    name = "model.layers.0.input_layernorm.weight"
    torch.testing.assert_close(weights[name], base[name])


def test_requantized_checkpoint_loads_quantized(quantized: Path, reflora: Reflora, tmp_path: Path) -> None:
    merged = reflora("merge", quantized, "--requantize", "nf4", "--output", tmp_path / "merged", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["rounding_difference"]["largest"] > 0.01
    assert not list(tmp_path.glob(".requantized-*"))
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["quantization_config"]["bnb_4bit_quant_type"] == "nf4"
    size = (tmp_path / "merged" / "model.safetensors").stat().st_size
    assert size < 0.45 * Path("reflora_cli/builtin/tiny_llama/model.safetensors").stat().st_size
    recipe = quantized / "recipe.yaml"
    scored = reflora("eval", recipe, f"model.name={tmp_path / 'merged'}", "model.quantization=none", "--output",
                     tmp_path / "scores", "--json")  # fmt: skip
    assert scored.status == 0, scored.err


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_resumed_run_with_moments_of_bitsandbytes_equals_an_uninterrupted_one(
    optimizer: str, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """Codes, scales and steps are all in the checkpoint."""
    import shutil

    settings = (f"train.optimizer={optimizer}", "method.rank=48", "model.quantization=none")
    whole = tmp_path / "whole"
    trained(reflora, recipe, whole, *settings)
    part = shutil.copytree(whole, tmp_path / "part")
    shutil.rmtree(part / "checkpoints" / "step-000006")
    (part / "results.json").unlink()
    outcome = reflora("train", recipe, *settings, "--output", part, "--resume")
    assert outcome.status == 0, outcome.err
    for name in ("adapter/adapter_model.safetensors", "checkpoints/step-000006/optimizer.safetensors"):
        assert (part / name).read_bytes() == (whole / name).read_bytes()
    codes = load_file(whole / "checkpoints" / "step-000006" / "optimizer.safetensors")
    assert (torch.uint8 in {tensor.dtype for tensor in codes.values()}) == optimizer.endswith("8bit")


def test_moments_that_cannot_be_transported_are_refused(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora(
        "train", recipe, "method.name=reflora-s", "train.optimizer=adamw_8bit", "--output", tmp_path / "run"
    )
    assert outcome.status == 2
    assert "8 bits" in outcome.err
    assert "train.optimizer" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_adapter_on_a_checkpoint_that_is_quantized_already(
    method: str, quantized: Path, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    assert reflora("merge", quantized, "--requantize", "nf4", "--output", tmp_path / "base").status == 0
    settings = (f"model.name={tmp_path / 'base'}", "model.quantization=none", f"method.name={method}")
    trained(reflora, recipe, tmp_path / "run", *settings)
    merged = reflora("merge", tmp_path / "run", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["largest_difference"] <= 1e-4
    weights = load_file(tmp_path / "run" / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


BITS: dict[str, dict[str, Any]] = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}


def quantized_by_transformers(kind: str, dtype: torch.dtype, base: Path, directory: Path) -> dict[str, torch.Tensor]:
    """Write a checkpoint as bitsandbytes makes it; its weights as bitsandbytes dequantizes them, float64."""
    from bitsandbytes.functional import dequantize_4bit

    config = transformers.BitsAndBytesConfig(**BITS[kind], llm_int8_skip_modules=["lm_head"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, device_map={"": "cpu"}, quantization_config=config
    )
    model.save_pretrained(directory)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(directory)
    weights = {}
    for name, own in model.state_dict(keep_vars=True).items():
        if name.endswith(".weight"):
            if kind == "int8" and own.dtype is torch.int8:
                weights[name] = own.data.double() * own.SCB[:, None].double() / 127
            elif own.dtype is torch.uint8:
                state = copy.copy(own.quant_state)
                state.shape = torch.Size((state.shape.numel() // 64, 64))  # on other rows it errs on the CPU
                weights[name] = dequantize_4bit(own.data, state).view(own.quant_state.shape).double()
            else:
                weights[name] = own.data.double()
    return weights


@pytest.mark.parametrize(("kind", "rest"), [("nf4", "bfloat16"), ("fp4", "float32"), ("int8", "bfloat16")])
def test_checkpoints_of_bitsandbytes_are_merged_as_they_were_trained_on(
    kind: str, rest: str, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """Codes are no weights, and what is not quantized is trained in the dtype that is shown, whatever the file's."""
    base = tmp_path / "base"
    expected = quantized_by_transformers(kind, getattr(torch, rest), saved("llama", tmp_path / "dense"), base)
    settings = (f"model.name={base}", "model.quantization=none", "method.name=lora", "train.steps=4")
    results = trained(reflora, recipe, tmp_path / "run", *settings).json
    assert (results["dtype"], results["quantization"]) == ("float32", kind)
    restored = restore(load_recipe(str(tmp_path / "run" / "recipe.yaml"), []), tmp_path / "run" / "adapter")
    assert {parameter.dtype for parameter in restored.base.model.parameters()} == {torch.float32}
    merged = reflora("merge", tmp_path / "run", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["streamed"]
    assert merged.json["largest_difference"] <= 1e-4
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    found = load_file(tmp_path / "run" / "merged" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        a, b = (adapter.get(f"base_model.model.{name.removesuffix('weight')}lora_{factor}.weight") for factor in "AB")
        update = 0 if a is None or b is None else 8.0 / 4 * b.double() @ a.double()
        torch.testing.assert_close(found[name].double(), weight + update, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "override", "words"),
    [
        ({"quant_method": "gptq", "bits": 4}, "none", ("gptq", "model.name", "nf4, fp4 or int8")),
        ({"quant_method": "fp8"}, "none", ("fp8", "model.quantization=nf4")),
        ({"load_in_8bit": True}, "nf4", ("int8", "model.quantization=none")),
    ],
)
def test_quantization_that_cannot_be_trained_on_is_refused_at_the_start(
    settings: dict[str, Any], override: str, words: tuple[str, ...], recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    base = saved("llama", tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    outcome = reflora("train", recipe, f"model.name={base}", f"model.quantization={override}", "--dry-run")
    assert outcome.status == 2
    assert not [word for word in words if word not in outcome.err], outcome.err


@pytest.mark.parametrize("kind", ["none", "nf4"])
def test_head_of_its_own_under_a_config_that_ties(kind: str, recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """transformers does not tie two weights that differ, whatever the config says: the merged config tells so."""
    base = saved("llama-tied", tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].flip(0)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    trained(reflora, recipe, tmp_path / "run", f"model.name={base}", f"model.quantization={kind}", "train.steps=4")
    merged = reflora("merge", tmp_path / "run", "--json")
    assert merged.status == 0, merged.err
    assert json.loads((tmp_path / "run" / "merged" / "config.json").read_text())["tie_word_embeddings"] is False
    found = load_file(tmp_path / "run" / "merged" / "model.safetensors")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert found[name].equal(weights[name])


def test_auto_stays_what_training_took_it_for(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """A GPU trains in bfloat16 where a laptop, on which its run is merged, would choose float32."""
    trained(reflora, recipe, tmp_path / "run", "model.dtype=bfloat16", "method.name=lora", *FEW)
    written = tmp_path / "run" / "recipe.yaml"
    written.write_text(written.read_text().replace("dtype: bfloat16", "dtype: auto"), encoding="utf-8")
    merged = reflora("merge", tmp_path / "run", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["dtype"] == "bfloat16"
    scored = reflora("eval", tmp_path / "run", "--json")
    assert scored.json["identity"]["dtype"] == "bfloat16"
