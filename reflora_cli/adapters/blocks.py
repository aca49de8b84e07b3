"""Which linear layer of a transformer's block makes the output of its attention, and which that of its feed-forward.

Architectures call them by a few names, which are known here by what stands behind the number of the block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from torch import nn

from reflora_cli.adapters.targets import match_targets
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.axes import Place
from reflora_cli.methods.layers import LayerChoice

NAMES = {
    Place.ATTENTION: (
        "attention.output.dense",  # BERT, RoBERTa, ELECTRA, DeBERTa
        "attention.out_lin",  # DistilBERT
        "attention.attn.o",  # MPNet
        "attention.dense",  # GPT-NeoX
        "self_attention.dense",  # BLOOM, Falcon
        "self_attn.o_proj",  # Llama, Qwen, Mistral, Gemma
        "self_attn.out_proj",  # OPT, BART
        "self_attn.dense",  # Phi, Persimmon
        "attn.c_proj",  # GPT-2
        "attn.out_proj",  # GPT-J, MPT
        "attn.attention.out_proj",  # GPT-Neo
        "attn.Wo",  # ModernBERT
    ),
    Place.FEED_FORWARD: (
        "output.dense",
        "ffn.lin2",
        "ffn.down_proj",
        "mlp.down_proj",
        "mlp.dense_4h_to_h",
        "mlp.c_proj",
        "mlp.fc2",
        "mlp.fc_out",
        "mlp.Wo",
        "fc2",
    ),
}
"""The names of the two layers, below a block."""
PATTERNS = {
    place: re.compile(rf"(?P<block>.*\.\d+)\.(?:{'|'.join(map(re.escape, names))})") for place, names in NAMES.items()
}


def matched_places(model: nn.Module, places: Sequence[Place], saved: Sequence[str]) -> dict[str, list[str]]:
    """Return the linear layers of every block at each of the places, by the place, in the model's order.

    saved: modules that travel whole, in which none is looked for. Raises InputError for a model with blocks of which
    not both layers are known, as a mixture of experts or T5, whose one attention has many outputs.
    """
    names = match_targets(model, "all-linear", saved)["all-linear"]
    found = {place: at(place, names) for place in Place}
    in_blocks = {tuple(sorted((block, len(own)) for block, own in blocks.items())) for blocks in found.values()}
    if in_blocks != {tuple(sorted((block, 1) for block in found[Place.ATTENTION]))} or in_blocks == {()}:
        counts = ", ".join(f"{len(blocks)} {place}" for place, blocks in found.items())
        what = f"the output layers of attention and feed-forward cannot be found in a {type(model).__name__}"
        remedy = "set method.targets to the linear layers behind which adapters are to be put"
        raise InputError(Problem(what, "method.targets", f"{counts} in its blocks", "one of each in a block", remedy))
    return {place.value: [own[0] for own in found[place].values()] for place in places}


def at(place: Place, names: Iterable[str]) -> dict[str, list[str]]:
    """Return those of the named linear layers that stand at a place, by the path of the block."""
    blocks: dict[str, list[str]] = {}
    for name in names:
        if match := PATTERNS[place].fullmatch(name):
            blocks.setdefault(match["block"], []).append(name)
    return blocks


def wanted_modules(
    model: nn.Module, layer: LayerChoice, targets: tuple[str, ...] | Literal["all-linear"], saved: Sequence[str]
) -> dict[str, list[str]]:
    """Return the modules that each target names; where a layer has places of its own, `all-linear` means those.

    Raises InputError as `match_targets` and `matched_places`.
    """
    if targets == "all-linear" and layer.places:
        return matched_places(model, layer.places, saved)
    return match_targets(model, targets, saved)
