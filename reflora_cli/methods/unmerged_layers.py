"""The choices of `layer` that no plain weights replace: bottlenecks and virtual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from reflora_cli.methods.axes import Place
from reflora_cli.methods.layer_record import OF_ADAPTERS, WITHOUT_PAIRS, LayerRecord

BOTTLENECK = "REFLORA_BOTTLENECK"
"""The type of adapter under which our files hold bottlenecks."""
Activation = Literal["gelu", "relu", "silu", "tanh"]
NO_BOTTLENECKS = "PEFT has no bottleneck adapters"
NOT_LINEAR = "the function between the matrices of a bottleneck is not linear, so that no weight computes the same"
NO_WEIGHTS = "virtual tokens are put before every row and are part of no weight"


class BottleneckLayer(LayerRecord):
    """Bottlenecks h + W_u f(W_d h) behind linear layers."""

    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = WITHOUT_PAIRS
    unused: ClassVar[tuple[str, ...]] = ("alpha",)
    peft_type: ClassVar[str] = BOTTLENECK
    not_for_peft: ClassVar[str] = NO_BOTTLENECKS
    not_for_vllm: ClassVar[str] = "it supports LoRA only, and these are bottlenecks"
    not_merged: ClassVar[str] = NOT_LINEAR


class HoulsbyLayer(BottleneckLayer):
    """Bottlenecks behind the outputs of attention and feed-forward in every block."""

    kind: Literal["houlsby"] = Field("houlsby", description="h + W_u f(W_d h), behind attention and feed-forward")
    activation: Activation = Field("gelu", description="the function f; the paper's code uses gelu")

    source: ClassVar[str] = "Houlsby et al. 2019, bottleneck adapters, arXiv 1902.00751"
    peft_flags: ClassVar[Mapping[str, bool]] = {"after_attention": True}
    places: ClassVar[tuple[Place, ...]] = (Place.ATTENTION, Place.FEED_FORWARD)


class PfeifferLayer(BottleneckLayer):
    """Bottlenecks behind the output of the feed-forward in every block."""

    kind: Literal["pfeiffer"] = Field("pfeiffer", description="h + W_u f(W_d h), behind the feed-forward")
    activation: Activation = Field("relu", description="the function f; the paper's code uses relu")

    source: ClassVar[str] = "Pfeiffer et al. 2020, AdapterFusion, arXiv 2005.00247"
    peft_flags: ClassVar[Mapping[str, bool]] = {"after_attention": False}
    places: ClassVar[tuple[Place, ...]] = (Place.FEED_FORWARD,)


class VirtualLayer(LayerRecord):
    """Virtual tokens before every row."""

    tokens: int = Field(20, ge=1, le=2**16, description="the number of virtual tokens")

    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = (*WITHOUT_PAIRS, *OF_ADAPTERS)
    peft_flags: ClassVar[Mapping[str, bool]] = {}
    not_merged: ClassVar[str] = NO_WEIGHTS
    is_virtual: ClassVar[bool] = True

    @property
    def reserved(self) -> int:
        """The number of virtual tokens."""
        return self.tokens

    @property
    def begins_as_base(self) -> bool:
        """False: any token before a row changes what is read of it."""
        return False


class PromptLayer(VirtualLayer):
    """Embeddings of virtual tokens before every row."""

    kind: Literal["prompt"] = Field("prompt", description="embeddings of virtual tokens before every row")
    init: Literal["vocabulary", "normal"] = Field(
        "vocabulary", description="initial values: embeddings of random tokens, or normal with standard deviation 1"
    )

    source: ClassVar[str] = "Lester, Al-Rfou, Constant 2021, prompt tuning, arXiv 2104.08691"
    peft_type: ClassVar[str] = "PROMPT_TUNING"
    not_for_vllm: ClassVar[str] = "it supports LoRA only, and this is a prompt"


class PrefixLayer(VirtualLayer):
    """Keys and values of virtual tokens before those of every row, in every layer's attention."""

    kind: Literal["prefix"] = Field("prefix", description="keys and values of virtual tokens in every layer")
    projection: Annotated[int, Field(ge=1, le=2**16)] | None = Field(
        None, description="width of an MLP that computes keys and values from one vector for each token; null: no MLP"
    )

    source: ClassVar[str] = "Li, Liang 2021, prefix tuning, arXiv 2101.00190"
    peft_type: ClassVar[str] = "PREFIX_TUNING"
    not_for_vllm: ClassVar[str] = "it supports LoRA only, and this is a prefix"
    keeps_cache: ClassVar[bool] = True
