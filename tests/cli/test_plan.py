"""`reflora plan`: from a config alone, for a named GPU, with advice; and a dry run with the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Outcome, Reflora

FEW = ("task.max_train_rows=48", "task.max_eval_rows=8", "method.refactor.warmup_steps=1")
SAVED = (
    "model.dtype=bfloat16",
    "model.quantization=nf4",
    "train.optimizer=adamw_8bit",
    "train.packing=true",
    "train.gradient_checkpointing=true",
    "train.micro_batch_size=16",
)
"""What advice has nothing to say of, so that few combinations are left."""
LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 1024,
    "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1000,
    "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A directory that holds the config of a base and nothing else."""
    place = tmp_path / "bare"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    return place


def test_a_config_alone_is_planned(reflora: Reflora, language_recipe: Path, bare: Path) -> None:
    outcome = reflora("plan", language_recipe, f"model.name={bare}", "--gpu", "H100", "--json")
    assert outcome.status == 0, outcome.err
    found = outcome.json
    width, inner, kv = 256, 1024, 128
    factors = 2 * (width + width) + 2 * (width + kv) + 3 * (width + inner)  # q and o; k and v; the feed-forward's three
    assert found["parameters"]["trained"] == 2 * 4 * factors
    assert found["targets"] == {"all-linear": 2 * 7}
    assert found["base"]["weights_at_hand"] is False
    linear = 2 * (2 * width * width + 2 * width * kv + 3 * width * inner)
    assert found["memory"]["weights"]["adapted linear layers"] == 4 * linear
    assert "tokenizer is not available" in outcome.err
    assert found["largest_batch"]["length"] == 48


def test_quantized_weights_take_four_bits_and_their_scales(reflora: Reflora, language_recipe: Path, bare: Path) -> None:
    outcome = reflora(
        "plan", language_recipe, f"model.name={bare}", "model.quantization=nf4", "--gpu", "H100", "--json"
    )
    (size,) = [own for kind, own in outcome.json["memory"]["weights"].items() if "nf4" in kind]
    linear = 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 1024)
    # Half a byte, a byte for 64 weights, a float32 for 64 x 256 of them, and small tables.
    assert size == pytest.approx(linear * (1 / 2 + 1 / 64 + 4 / (64 * 256)), rel=0.02)


def test_what_does_not_fit_is_told_what_to_change(reflora: Reflora, language_recipe: Path, bare: Path) -> None:
    arguments = (
        "plan",
        language_recipe,
        f"model.name={bare}",
        "task.max_length=1024",
        *SAVED,
        "--gpu",
        "1 GB",
        "--json",
    )
    outcome = reflora(*arguments)
    assert outcome.status == 0, outcome.err
    found = outcome.json
    assert not found["memory"]["fits"]
    advice = found["advice"]
    assert advice["overrides"]
    assert all(total < found["memory"]["total"] for total in advice["alone"].values())
    changed = reflora(*arguments[:-1], *advice["overrides"], "--json")
    assert changed.json["memory"]["fits"]
    assert changed.json["memory"]["total"] == advice["total"]


@pytest.fixture(scope="module")
def planned(reflora: Reflora, recipe: Path) -> Outcome:
    outcome = reflora("plan", recipe, *FEW, "--json")
    assert outcome.status == 0, outcome.err
    return outcome


def test_lines_fit_into_eighty_columns(planned: Outcome) -> None:
    lines = planned.err.splitlines()
    assert max(map(len, lines[1:])) <= 80  # the first names the recipe's file
    assert any("A 23,040, B 25,600" in line for line in lines)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--gpu", "H10"), "H100"),
        (("model.name=/nowhere/at/all",), "directory does not exist"),
        (("method.targets=[q_prj]",), "q_proj"),
        (("task.max_length=100000",), "task.max_length is larger than the model allows"),
        (("train.warmup_steps=1000",), "before the learning rate reaches its peak"),
        (("model.dtype=float16",), "float16 needs a GPU"),
    ],
)
def test_what_training_refuses_is_refused(
    more: tuple[str, ...], said: str, reflora: Reflora, recipe: Path, tmp_path: Path
) -> None:
    outcome = reflora("plan", recipe, *FEW, *more)
    assert outcome.status == 2, outcome.err
    assert said in outcome.err
    assert "Traceback" not in outcome.err


def test_a_used_output_is_refused(reflora: Reflora, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("x", encoding="utf-8")
    outcome = reflora("plan", recipe, *FEW, "--output", tmp_path)
    assert outcome.status == 2
    assert "not empty" in outcome.err


def test_measured_steps_leave_nothing(
    reflora: Reflora, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = reflora("plan", recipe, *FEW, "train.batch_size=8", "--measure", "--json")
    assert outcome.status == 0, outcome.err
    measured = outcome.json["measured"]
    assert 0 < measured["step"] * outcome.json["steps"] <= measured["total"]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_the_same_numbers(reflora: Reflora, recipe: Path, planned: Outcome) -> None:
    dry = reflora("train", recipe, *FEW, "--dry-run", "--json")
    assert dry.status == 0, dry.err
    assert set(dry.json) >= {"plan", "recipe", "estimates"}
    same = ("parameters", "steps", "rows", "largest_batch", "disk")
    assert {key: dry.json["estimates"][key] for key in same[:-1]} == {key: planned.json[key] for key in same[:-1]}
    assert dry.json["estimates"]["disk"]["checkpoint"] == planned.json["disk"]["checkpoint"]


def test_a_checkpoint_has_the_planned_size(reflora: Reflora, recipe: Path, trained: Path) -> None:
    planned = reflora("plan", recipe, "--json").json
    newest = sorted(trained.glob("checkpoints/step-*"))[-1]
    real = sum(file.stat().st_size for file in newest.iterdir())
    assert planned["disk"]["checkpoint"] == pytest.approx(real, rel=0.05)
    adapter = (trained / "adapter" / "adapter_model.safetensors").stat().st_size
    assert planned["disk"]["adapter"] == pytest.approx(adapter, rel=0.05)
