"""A base of two narrow blocks: what is counted of a model needs no large one."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from reflora_cli.model.sources import BUILTIN

NARROW = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
          "num_key_value_heads": 2, "head_dim": 32}  # fmt: skip


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of a random Llama with the built-in tokenizer."""
    place, source = tmp_path_factory.mktemp("bases") / "narrow", BUILTIN["tiny-llama"]
    place.mkdir()
    for file in source.glob("*.json"):
        shutil.copyfile(file, place / file.name)
    config = {**json.loads((source / "config.json").read_text(encoding="utf-8")), **NARROW}
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(place)).save_pretrained(place)
    return str(place)


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The directory of the same Llama with a large vocabulary, and of nothing but its config."""
    place, source = tmp_path_factory.mktemp("bases") / "wide", BUILTIN["tiny-llama"]
    place.mkdir()
    config = {**json.loads((source / "config.json").read_text(encoding="utf-8")), **NARROW, "vocab_size": 128_000}
    config["max_position_embeddings"] = 2048
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(place)
