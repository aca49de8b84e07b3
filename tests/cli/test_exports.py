"""Exports as other tools read them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.cli.conftest import Reflora
from tests.models import make


def test_onnx_computes_what_the_merged_model_does(trained: Path, reflora: Reflora, tmp_path: Path) -> None:
    """Other batches and lengths than the traced ones, label names inside, float32 logits to 1e-4."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    outcome = reflora("export", trained, "--format", "onnx", "--output", tmp_path / "onnx", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["largest_difference"] <= 1e-4
    assert reflora("merge", trained, "--output", tmp_path / "merged").status == 0
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["labels"]) == ["entailment", "not_entailment"]
    for texts in (["a cup is small"], ["a cup", "the box is made of wood and very large", "no"]):
        inputs = tokenizer(texts, padding=True, return_tensors="pt")
        with torch.no_grad():
            expected = model(**inputs).logits.numpy()
        (logits,) = session.run(None, {name: inputs[name].numpy() for name in outcome.json["inputs"]})
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert "onnxruntime" in (tmp_path / "onnx" / "README.md").read_text()


@pytest.mark.parametrize(("name", "dtype"), [("bert", "bfloat16"), ("deberta", "float32"), ("gpt2", "float32")])
def test_onnx_of_other_architectures(
    name: str, dtype: str, recipe: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token types of BERT, none of DeBERTa whose tokenizer gives them, transposed layers of GPT-2; the card is true.

    The graph is in float32, and as far from a run in half precision as that is from the same run in float32.
    """
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from tests.cli.test_models import saved

    config = make(name).config
    config.vocab_size, config.pad_token_id = 1500, 0
    config.max_position_embeddings = 64
    torch.manual_seed(0)
    base = saved(transformers.AutoModelForSequenceClassification.from_config(config), tmp_path / "base")
    if name != "gpt2":
        settings = json.loads((base / "tokenizer_config.json").read_text())
        settings["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
        (base / "tokenizer_config.json").write_text(json.dumps(settings))
    small = ("train.steps=6", "task.max_eval_rows=40", "eval.at_start=false", "task.max_length=32")
    run = tmp_path / "run"
    model = (f"model.name={base}", f"model.dtype={dtype}", "method.targets=all-linear")
    outcome = reflora("train", recipe, *model, *small, "--output", run)
    assert outcome.status == 0, outcome.err
    exported = reflora("export", run, "--format", "onnx", "--json")
    assert exported.status == 0, exported.err
    assert exported.json["largest_difference"] <= (1e-4 if dtype == "float32" else 1e-1)
    assert exported.json["length"] == "free"
    assert ("token_type_ids" in exported.json["inputs"]) == (name == "bert")
    monkeypatch.chdir(run / "export-onnx")
    used: dict[str, np.ndarray] = {}
    exec(Path("README.md").read_text().partition("```python\n")[2].partition("```")[0], used)
    assert used["logits"].shape == (1, len(used["labels"]))


def test_merged_model_has_a_card(trained: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("export", trained, "--format", "safetensors", "--output", tmp_path / "model")
    assert outcome.status == 0, outcome.err
    card = (tmp_path / "model" / "README.md").read_text()
    assert "RefLoRA, arXiv 2505.18877" in card
    assert "proofs are for gradient descent. This run used AdamW" in card
    assert "| validation | accuracy |" in card
    assert "AutoModelForSequenceClassification" in card


def test_an_export_says_whether_vllm_serves_the_adapter(trained: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("export", trained, "--format", "peft", "--output", tmp_path / "peft", "--json")
    assert outcome.status == 0, outcome.err
    assert "vLLM cannot serve the adapter itself: modules are saved whole (score)" in outcome.json["vllm"]
    assert outcome.json["vllm"] in (tmp_path / "peft" / "README.md").read_text()
    assert "modules are saved whole" in outcome.err


@pytest.fixture(scope="module")
def lora(recipe: Path, reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that llama.cpp's format can hold."""
    run = tmp_path_factory.mktemp("runs") / "lora"
    settings = ("task.name=builtin/questions", "eval.protocol=choices", "task.max_eval_rows=20", "train.steps=4")
    outcome = reflora("train", recipe, "method.name=lora", *settings, "train.epochs=null", "--output", run)
    assert outcome.status == 0, outcome.err
    return run


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_gguf_is_a_model_of_its_own(kind: str, answering: Path, reflora: Reflora, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    arguments = ("--format", "gguf", "--gguf-type", kind, "--output", tmp_path / "out", "--json")
    outcome = reflora("export", answering, *arguments)
    assert outcome.status == 0, outcome.err
    assert (outcome.json["largest_difference"] <= 1e-4) == (kind == "f32")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"model.gguf", "Modelfile", "README.md"}
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    tensors, template = reader.tensors, reader.fields["tokenizer.chat_template"].contents()
    assert template.startswith("{{- bos_token }}"), "programs that render it put no begin token before the text"
    assert len(tensors) == outcome.json["tensors"]
    assert outcome.json["tokenizer"] == "gpt2, gpt-2"
    question = " Question: {{ .Prompt }} Answer:"  # the tokenizer puts a space before a text, llama.cpp does not
    assert f'TEMPLATE """{question}"""' in (tmp_path / "out" / "Modelfile").read_text()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Question: {instruction} Answer:" in card
    assert all(note in card for note in outcome.json["notes"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_gguf_of_fewer_bits_is_made_by_llama_cpp_s_program(
    answering: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for it; without the program nothing is done, with one that fails nothing is left."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    arguments = (
        "export",
        answering,
        "--format",
        "gguf",
        "--gguf-type",
        "q4_k_m",
        "--output",
        tmp_path / "out",
        "--json",
    )
    monkeypatch.setenv("LLAMA_QUANTIZE", str(tmp_path / "missing"))
    outcome = reflora(*arguments)
    assert outcome.status == 2
    assert "LLAMA_QUANTIZE" in outcome.err
    program = tmp_path / "llama-quantize"
    stand_in = Path(__file__).parents[1] / "llama_quantize.py"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stand_in}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("LLAMA_QUANTIZE", str(program))
    monkeypatch.setenv("FLAW", "tensor")
    assert reflora(*arguments).status == 1
    assert [path.name for path in tmp_path.iterdir()] == ["llama-quantize"]
    monkeypatch.delenv("FLAW")
    outcome = reflora(*arguments)
    assert outcome.status == 0, outcome.err
    assert outcome.json["format"] == "gguf q4_k_m"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.gguf", "Modelfile", "README.md"}
    file = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    assert file.fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert "Q4_0" in {tensor.tensor_type.name for tensor in file.tensors}


def test_gguf_adapter_holds_every_adapted_module(lora: Path, reflora: Reflora, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    outcome = reflora("export", lora, "--format", "gguf-adapter", "--output", tmp_path / "out", "--json")
    assert outcome.status == 0, outcome.err
    tensors = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "out" / "adapter.gguf").tensors}
    assert len(tensors) == 2 * outcome.json["modules"] == 2 * 35
    assert "blk.0.attn_q.weight.lora_a" in tensors
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter.gguf", "Modelfile", "README.md"}
    assert "ADAPTER ./adapter.gguf\nTEMPLATE" in (tmp_path / "out" / "Modelfile").read_text()


def test_a_tied_head_is_not_adapted_in_llama_cpp(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """Its matrix is the embedding's, so that llama.cpp would refuse the adapter; merged it is a head of its own."""
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    settings = ("task.name=builtin/questions", "eval.every=never", "eval.select=last", "train.steps=2")
    targets = ("method.name=lora", "method.targets=[q_proj, lm_head]", "train.epochs=null")
    run = tmp_path / "run"
    assert reflora("train", recipe, *settings, *targets, "--output", run).status == 0
    outcome = reflora("export", run, "--format", "gguf-adapter", "--output", tmp_path / "out")
    assert outcome.status == 2
    assert "lm_head" in outcome.err
    assert "--format gguf" in outcome.err
    assert not (tmp_path / "out").exists()
    assert reflora("export", run, "--format", "gguf", "--output", tmp_path / "out").status == 0
    assert "output.weight" in {tensor.name for tensor in gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors}


def test_language_models_are_not_exported_to_onnx(answering: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("export", answering, "--format", "onnx", "--output", tmp_path / "out")
    assert outcome.status == 2
    assert "only classifiers" in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["gguf", "gguf-adapter"])
def test_classifiers_are_not_exported_to_gguf(kind: str, trained: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("export", trained, "--format", kind, "--output", tmp_path / "out")
    assert outcome.status == 2, outcome.err
    assert "--format" in outcome.err
    assert not list(tmp_path.iterdir())
