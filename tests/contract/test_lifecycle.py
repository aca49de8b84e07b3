"""Architectures of every kind through all commands: `python -m tests.robustness.sweep` tries many more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architectures import DECODERS, ENCODERS
from tests.robustness.lifecycle import Setting, lifecycle, write_data

CLASSIFIERS = {"bart": "dora", "deberta-v2": "reflora", "roberta": "lora", "t5": "reflora-s", "xlnet": "scaled-gd"}
LANGUAGE_MODELS = {
    "deepseek-v3": "lora", "gemma2": "dora", "gpt-bigcode": "reflora", "gpt-neox": "dora", "llama-tied": "reflora-s",
    "mixtral": "lora", "qwen2": "reflora", "rwkv": "reflora",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", [*CLASSIFIERS, *LANGUAGE_MODELS])
def test_every_command_does_right(name: str, data: Path, tmp_path: Path) -> None:
    """Trained, the same in batches of 1 and of 8, merged, and with the same logits in PEFT."""
    language = name in LANGUAGE_MODELS
    method = {**CLASSIFIERS, **LANGUAGE_MODELS}[name]
    found = lifecycle((DECODERS if language else ENCODERS)[name], Setting(tmp_path / name, data, language, method))
    assert {stage: outcome.text for stage, outcome in found.items() if outcome.ending != "ok"} == {}
    assert {"train", "batches", "merge", "peft"} <= set(found)
