"""Say whether vLLM can serve an adapter beside its base, or must be given the merged model.

vLLM adds s B A to the linear layers of a base, with one scale s = alpha / r, or alpha / sqrt(r), for the whole adapter,
and serves adapters up to a rank that is one of a few sizes. It refuses modules that are saved whole.
"""

from __future__ import annotations

from reflora_cli.adapter_io.config import PeftConfig
from reflora_cli.adapter_io.lora import LoraConfig
from reflora_cli.factors.pair import scaling_factor
from reflora_cli.methods.layers import LayerChoice

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values of `--max-lora-rank` that all versions take."""
MERGE = "use the merged model (`reflora merge RUN`)"


def not_served(layer: LayerChoice, config: PeftConfig) -> str:
    """Return why vLLM cannot serve the adapter itself; empty where it can."""
    if layer.not_for_vllm:
        return layer.not_for_vllm
    if config.modules_to_save:
        return f"modules are saved whole ({', '.join(config.modules_to_save)})"
    if not isinstance(config, LoraConfig):
        return f"it is {config.peft_type}, not LoRA"
    if len(scales(config)) > 1:
        return "its modules are scaled differently, and vLLM has one scale for all"
    if highest_rank(config) > RANKS[-1]:
        return f"its rank is {highest_rank(config)}, and vLLM takes {RANKS[-1]} at most"
    return ""


def scales(config: LoraConfig) -> set[float]:
    """Return the different scales s of the adapter's modules."""
    names = {"", *config.rank_pattern, *config.alpha_pattern}
    alphas = {name: config.alpha_pattern.get(name, config.lora_alpha) for name in names}
    return {scaling_factor(config.scaling, alphas[name], config.rank_pattern.get(name, config.r)) for name in names}


def highest_rank(config: LoraConfig) -> int:
    """Return the largest rank of a module."""
    return max((config.r, *config.rank_pattern.values()))


def vllm_line(layer: LayerChoice, config: PeftConfig) -> str:
    """Return a sentence for the card and for the end of an export: the command that serves the adapter, or the reason
    why the merged model is to be served.
    """
    if reason := not_served(layer, config):
        return f"vLLM cannot serve the adapter itself: {reason}" + ("." if layer.not_merged else f"; {MERGE}.")
    assert isinstance(config, LoraConfig)
    rank = next(own for own in RANKS if own >= highest_rank(config))
    return f"vLLM serves it: `vllm serve BASE --enable-lora --max-lora-rank {rank} --lora-modules NAME=DIRECTORY`."
