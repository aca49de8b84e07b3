"""What vLLM serves of an adapter: plain LoRA with one scale, and nothing saved whole."""

from __future__ import annotations

from typing import Any

import pytest

from reflora_cli.adapter_io.config import PeftConfig
from reflora_cli.adapter_io.lora import LoraConfig
from reflora_cli.export.vllm import vllm_line
from reflora_cli.methods.layers import LAYERS

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8.0, "target_modules": ["q_proj"]}
SERVED = "vLLM serves it"


@pytest.mark.parametrize("kind", LAYERS)
def test_only_what_is_stored_as_plain_lora_is_served(kind: str) -> None:
    line, is_lora = vllm_line(LAYERS[kind](), LoraConfig(**PLAIN)), "lora" in (kind, LAYERS[kind].read_as)
    assert (SERVED in line) == is_lora
    assert ("reflora merge" in line) == (not is_lora and not LAYERS[kind].not_merged)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "--max-lora-rank 8 "),
        ({"r": 300}, "--max-lora-rank 320 "),
        ({"rank_pattern": {"q_proj": 9}, "alpha_pattern": {"q_proj": 18.0}}, "--max-lora-rank 16 "),
        ({"rank_pattern": {"q_proj": 9}}, "scaled differently"),
        ({"alpha_pattern": {"q_proj": 9.0}}, "scaled differently"),
        ({"use_rslora": True, "rank_pattern": {"v": 16}, "alpha_pattern": {"v": 16.0}}, "--max-lora-rank 16 "),
        ({"use_rslora": True, "rank_pattern": {"v": 16}, "alpha_pattern": {"v": 32.0}}, "scaled differently"),
        ({"r": 1000}, "its rank is 1000"),
        ({"modules_to_save": ["score"]}, "saved whole (score)"),
    ],
)
def test_what_a_config_says_decides(settings: dict[str, Any], words: str) -> None:
    line = vllm_line(LAYERS["lora"](), LoraConfig(**{**PLAIN, **settings}))
    assert words in line
    assert (SERVED in line) == words.startswith("--")


def test_a_config_of_another_type_is_not_served() -> None:
    config = PeftConfig(peft_type="LOHA", target_modules=["q_proj"])
    assert "it is LOHA" in vllm_line(LAYERS["lora"](), config)
