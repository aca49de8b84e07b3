"""The choices of `layer`: how the adapted weight is computed from W, A and B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from reflora_cli.methods.choice import Choice, by_kind


class LayerRecord(Choice):
    """What the rest of the program asks of a layer instead of its name.

    has_pairs: whether it trains pairs A, B. peft_type: the kind of adapter under which PEFT's format has it.
    peft_flags: the settings of PEFT's config that tell it from other layers of that type. not_for_peft: why PEFT cannot
    read it; empty where it can. in_place: the parameters of the base that it trains where they are, in words; empty for
    a layer with modules of its own. trains_weights: whether weight matrices are among them, which then are neither
    quantized nor shared out.
    """

    has_pairs: ClassVar[bool] = True
    peft_type: ClassVar[str] = "LORA"
    peft_flags: ClassVar[Mapping[str, bool]]
    not_for_peft: ClassVar[str] = ""
    in_place: ClassVar[str] = ""
    trains_weights: ClassVar[bool] = False

    def trains(self, name: str) -> bool:
        """Return whether it trains the base's parameter of this full name where it is."""
        return False


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


LayerChoice = Annotated[LoRALayer | DoRALayer, Field(discriminator="kind")]
LayerKind = Literal["lora", "dora"]
LAYERS: dict[str, type[LayerChoice]] = by_kind(LayerChoice)


def layer_of(peft_type: str, flags: Mapping[str, bool]) -> LayerChoice:
    """Return the layer that PEFT's config describes. flags: all its settings that any layer has among its
    `peft_flags`. Raises KeyError where there is none.
    """
    for layer in LAYERS.values():
        if layer.peft_type == peft_type and layer.peft_flags.items() <= flags.items():
            return layer()
    raise KeyError(f"no layer has PEFT's type {peft_type} with {dict(flags)}")
