"""What the rows of published tables train: the bundled recipes with each row's method and rank, on their bases' shapes.

Shares of parameters are those of all that the model then has, adapters included, as PEFT prints them.
"""

from __future__ import annotations

import pytest
from transformers import LlamaConfig, PretrainedConfig

from reflora_cli.methods.layers import AdaLoRALayer
from reflora_cli.methods.method import Method
from reflora_cli.model.counting import USUAL_BASE, config_named, trained_parameters
from reflora_cli.recipe.files import load_recipe

BLOCKS, WIDTH, HIDDEN = 12, 768, 3072
"""DeBERTaV3-base."""
LORA = BLOCKS * 8 * (4 * (WIDTH + WIDTH) + 2 * (WIDTH + HIDDEN))
MAGNITUDES = BLOCKS * (5 * WIDTH + HIDDEN)
BIASES = BLOCKS * (7 * WIDTH + HIDDEN) + 2 * WIDTH
"""Of six linear layers and two norms in a block, and of the norms of words and of relative positions."""
GLUE = {
    "lora": (8, LORA, 1.33),
    "lora-pro": (8, LORA, 1.33),
    "lora-rite": (8, LORA, 1.33),
    "reflora": (8, LORA, 1.33),
    "reflora-s": (8, LORA, 1.33),
    "dora": (8, LORA + MAGNITUDES, 1.41),
    "bitfit": (8, BIASES, 0.10),
    "houlsby": (32, BLOCKS * 2 * (2 * 32 * WIDTH + 32 + WIDTH), 1.20),
    "pfeiffer": (64, BLOCKS * (2 * 64 * WIDTH + 64 + WIDTH), 1.19),
    "full": (8, 183_831_552, 183.83),
}
"""Rank, number of parameters without the head, and the same in millions, by method."""
OTHERWISE = {"dora": 1.33, "bitfit": 0.1, "houlsby": 1.22, "pfeiffer": 1.18, "full": 184.0}
"""Published millions where they are not those above: rounded more, DoRA's without its magnitudes, and the bottlenecks
counted in some way that is not told."""

LLAMA = {
    "llama-7b": LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32
    ),
    "llama2-7b": LlamaConfig(
        vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        max_position_embeddings=4096,
    ),
    "llama3-8b": LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8,
    ),
}  # fmt: skip
WIDTHS = {
    "llama-7b": [(4096, 4096)] * 3 + [(4096, 11008), (11008, 4096)],
    "llama2-7b": [(4096, 4096)] * 3 + [(4096, 11008), (11008, 4096)],
    "llama3-8b": [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 14336), (14336, 4096)],
}
"""Inputs and outputs of q, k, v, up and down."""
SHARES: dict[str, dict[str, float]] = {
    "llama-7b": {"lora": 0.83, "dora": 0.84},
    "llama2-7b": {"lora": 0.83},
    "llama3-8b": {"lora": 0.70},
}
"""Published percentages at rank 32."""
COMMONSENSE = ("lora", "preclora", "nora+", "dora", "lora-rite", "reflora", "reflora-s")
"""The methods of the tables."""


@pytest.fixture(scope="module")
def deberta() -> PretrainedConfig:
    return config_named(USUAL_BASE)


@pytest.mark.parametrize("name", GLUE)
def test_rows_of_glue(name: str, deberta: PretrainedConfig) -> None:
    rank, expected, millions = GLUE[name]
    ranks = [f"method.rank={rank}"] if rank != 8 else []
    recipe = load_recipe("glue/cola", [f"method.name={name}", *ranks])
    assert recipe.model.name == USUAL_BASE
    found = trained_parameters(deberta, recipe.method)
    assert found == expected
    assert round(found / 1e6, 2) == millions
    told = found - MAGNITUDES if name == "dora" else found
    assert told / 1e6 == pytest.approx(OTHERWISE.get(name, millions), rel=0.03)


def test_adalora_s_published_number_is_of_triplets_that_are_left(deberta: PretrainedConfig) -> None:
    """1.27 million of a budget of 8 triplets a module, which may be all of small modules, or many of the large ones."""
    overrides = ["method.rank=12", "method.layer.target_rank=8", "train.epochs=25"]
    method = load_recipe("glue/adalora/cola", overrides).method
    assert isinstance(method.layer, AdaLoRALayer)
    small, large = 2 * WIDTH + 1, WIDTH + HIDDEN + 1
    assert trained_parameters(deberta, method) == BLOCKS * 12 * (4 * small + 2 * large)
    kept = BLOCKS * 6 * method.layer.target(method.rank)
    of_large = (1.27e6 - kept * small) / (large - small)
    assert 0 < of_large < BLOCKS * 12 * 2
    assert of_large / kept == pytest.approx(0.29, abs=0.01)  # where equal ranks would leave a third


def percent(trained: int, config: LlamaConfig) -> float:
    """The share of all parameters; the language head is not of the body that is counted."""
    body = trained_parameters(config, Method(name="full"))
    return 100 * trained / (body + config.vocab_size * config.hidden_size + trained)


@pytest.mark.parametrize("name", LLAMA)
def test_shares_of_the_commonsense_tables(name: str) -> None:
    for method, published in SHARES[name].items():
        recipe = load_recipe(f"commonsense/{name}", [f"method.name={method}"])
        found = trained_parameters(LLAMA[name], recipe.method)
        assert round(percent(found, LLAMA[name]), 2) == published, method


@pytest.mark.parametrize("rank", [32, 16])
@pytest.mark.parametrize("name", LLAMA)
def test_every_method_of_the_commonsense_tables_by_its_name(name: str, rank: int) -> None:
    """Counted in one block: pairs for all of them, and a number for each output with DoRA."""
    block = LlamaConfig.from_dict({**LLAMA[name].to_dict(), "num_hidden_layers": 1})
    pairs, outputs = rank * sum(map(sum, WIDTHS[name])), sum(out for _, out in WIDTHS[name])
    for method in COMMONSENSE:
        overrides = [f"method.name={method}", f"method.rank={rank}", f"method.alpha={2 * rank}"]
        own = load_recipe(f"commonsense/{name}", overrides).method
        assert (own.label, own.rank, own.alpha, own.dropout) == (method, rank, 2.0 * rank, 0.05)
        assert trained_parameters(block, own) == pairs + (outputs if method == "dora" else 0), method
