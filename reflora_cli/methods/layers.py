"""The choices of `layer`: how the adapted weight is computed from W, A and B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from reflora_cli.methods.choice import Choice, by_kind, refusal


class LayerRecord(Choice):
    """What the rest of the program asks of a layer instead of its name.

    has_pairs: whether it trains pairs A, B. peft_type: the kind of adapter under which PEFT's format has it.
    peft_flags: the settings of PEFT's config that tell it from other layers of that type.
    """

    has_pairs: ClassVar[bool] = True
    peft_type: ClassVar[str] = "LORA"
    peft_flags: ClassVar[Mapping[str, bool]]


class LoRALayer(LayerRecord):
    """W + s B A."""

    kind: Literal["lora"] = Field("lora", description="W + s B A")
    source: ClassVar[str] = "Hu et al. 2021, LoRA, arXiv 2106.09685"
    peft_flags: ClassVar[Mapping[str, bool]] = {"use_dora": False}


class DoRALayer(LayerRecord):
    """The rows of W + s B A rescaled to trained magnitudes."""

    kind: Literal["dora"] = Field("dora", description="the rows of W + s B A rescaled to trained magnitudes")
    source: ClassVar[str] = "Liu et al. 2024, DoRA, arXiv 2402.09353"
    peft_flags: ClassVar[Mapping[str, bool]] = {"use_dora": True}


class VeRALayer(LayerRecord):
    """W + diag(b) B diag(d) A with random A, B that all layers share, and trained vectors d and b."""

    kind: Literal["vera"] = Field("vera", description="W + diag(b) B diag(d) A: A, B random and shared; d, b trained")
    d_initial: float = Field(0.1, ge=-1e3, le=1e3, description="where every entry of d starts")
    projection_seed: int = Field(0, ge=0, lt=2**63, description="the seed of A and B, as PEFT's projection_prng_key")

    source: ClassVar[str] = "Kopiczko, Blankevoort, Asano 2023, VeRA, arXiv 2310.11454"
    has_pairs: ClassVar[bool] = False
    peft_type: ClassVar[str] = "VERA"
    peft_flags: ClassVar[Mapping[str, bool]] = {}


LayerChoice = Annotated[LoRALayer | DoRALayer | VeRALayer, Field(discriminator="kind")]
LayerKind = Literal["lora", "dora", "vera"]
LAYERS: dict[str, type[LayerChoice]] = by_kind(LayerChoice)


def check_pairs(layer: LayerChoice, chosen: Mapping[str, object], usual: Mapping[str, object]) -> None:
    """Raises a refusal for a setting of pairs A, B where the layer trains none. chosen: such settings by their keys.
    usual: the values of the same keys that change nothing.
    """
    for key, value in chosen.items():
        if not layer.has_pairs and value != usual[key]:
            reason = f"{key} {value} is for pairs A, B, and layer {layer} trains none"
            raise refusal(key, reason, f"set method.{key}={usual[key]}, or name the preset of this layer", also="layer")


def layer_of(peft_type: str, flags: Mapping[str, bool]) -> LayerChoice:
    """Return the layer that PEFT's config describes. flags: all its settings that any layer has among its
    `peft_flags`. Raises KeyError where there is none.
    """
    for layer in LAYERS.values():
        if layer.peft_type == peft_type and layer.peft_flags.items() <= flags.items():
            return layer()
    raise KeyError(f"no layer has PEFT's type {peft_type} with {dict(flags)}")
