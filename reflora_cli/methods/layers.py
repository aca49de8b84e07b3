"""The choices of `layer`: how the adapted weight is computed from W, A and B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from reflora_cli.methods.axes import Place
from reflora_cli.methods.choice import Choice, by_kind, refusal

IN_PLACE = "REFLORA_IN_PLACE"
"""The type of adapter under which our files hold parameters of the base that were trained where they are."""
OF_PAIRS = ("start", "update", "scaling", "lr_ratio")
"""The settings of a method that are about pairs A, B."""
WITHOUT_PAIRS = ("start", "scaling", "lr_ratio")
"""Those of them that mean nothing without pairs; of update rules each says itself on what it acts."""
OF_ADAPTERS = ("rank", "alpha", "dropout")
"""The numbers that only adapters of modules have."""
BOTTLENECK = "REFLORA_BOTTLENECK"
"""The type of adapter under which our files hold bottlenecks."""
Activation = Literal["gelu", "relu", "silu", "tanh"]
MERGE = "merge it instead: reflora merge RUN"
NO_BOTTLENECKS = "PEFT has no bottleneck adapters"
NOT_LINEAR = "what stands between the matrices of a bottleneck is not linear, so that no weight computes the same"
NO_WEIGHTS = "virtual tokens stand before every row, and in no weight"
NO_ADAPTER = "the base's own parameters were trained, which is nothing that PEFT calls an adapter"


class LayerRecord(Choice):
    """What the rest of the program asks of a layer instead of its name.

    has_pairs: whether it trains pairs A, B. meaningless: the settings of adapters that mean nothing with it.
    has_frames: whether it trains matrices whose columns or rows are orthonormal. needs_full_rank: whether r must be at
    most min(out, in). peft_type: the kind of adapter under which PEFT's format has it. peft_flags: the settings of
    PEFT's config that tell it from other layers of that type. not_for_peft: why PEFT cannot read it; empty where it
    can. not_for_vllm: why vLLM cannot put it beside a base, even as PEFT has it. in_place: the parameters of the base
    that it trains where they are, in words; empty for a layer with modules of its own. trains_weights: whether weight
    matrices are among them, which then are neither quantized nor shared out. not_merged: why no plain weights compute
    what the adapted model does; empty where a merge makes such. places: the places in each block that it adapts unless
    targets are named; empty for a layer on all linear layers. is_virtual: whether it puts virtual tokens before rows
    and adapts no module. keeps_cache: whether training needs the model's cache of keys.
    """

    has_pairs: ClassVar[bool] = True
    meaningless: ClassVar[tuple[str, ...]] = ()
    has_frames: ClassVar[bool] = False
    needs_full_rank: ClassVar[bool] = False
    peft_type: ClassVar[str] = "LORA"
    peft_flags: ClassVar[Mapping[str, bool]]
    not_for_peft: ClassVar[str] = ""
    not_for_vllm: ClassVar[str] = ""
    in_place: ClassVar[str] = ""
    trains_weights: ClassVar[bool] = False
    not_merged: ClassVar[str] = ""
    places: ClassVar[tuple[Place, ...]] = ()
    is_virtual: ClassVar[bool] = False
    keeps_cache: ClassVar[bool] = False

    @property
    def reserved(self) -> int:
        """The number of a model's positions that it takes from every row."""
        return 0

    @property
    def way_out(self) -> str:
        """What a user does with a run for which a format has no place."""
        return "use the run itself: reflora eval, predict or chat RUN" if self.not_merged else MERGE

    @property
    def has_rank(self) -> bool:
        """Whether it has adapters of modules, so that the rank means something."""
        return not self.in_place and "rank" not in self.meaningless

    @property
    def is_scaled(self) -> bool:
        """Whether its update is multiplied by s, so that alpha means something."""
        return "scaling" not in self.meaningless

    @property
    def begins_as_base(self) -> bool:
        """Whether the adapted model computes what its base does until the first step."""
        return True

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
    not_for_vllm: ClassVar[str] = "it has no place for DoRA's magnitudes"


class VeRALayer(LayerRecord):
    """W + diag(b) B diag(d) A with random A, B that all layers share, and trained vectors d and b."""

    kind: Literal["vera"] = Field("vera", description="W + diag(b) B diag(d) A: A, B random and shared; d, b trained")
    d_initial: float = Field(0.1, ge=-1e3, le=1e3, description="where every entry of d starts")
    projection_seed: int = Field(0, ge=0, lt=2**63, description="the seed of A and B, as PEFT's projection_prng_key")

    source: ClassVar[str] = "Kopiczko, Blankevoort, Asano 2023, VeRA, arXiv 2310.11454"
    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = WITHOUT_PAIRS
    peft_type: ClassVar[str] = "VERA"
    peft_flags: ClassVar[Mapping[str, bool]] = {}
    not_for_vllm: ClassVar[str] = "it knows LoRA, and this is VeRA"


class BiasLayer(LayerRecord):
    """The base's own biases b, in y = W x + b and in norms."""

    kind: Literal["bias"] = Field("bias", description="the base's biases, trained where they are")
    source: ClassVar[str] = "Ben-Zaken et al. 2021, BitFit, arXiv 2106.10199"
    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = WITHOUT_PAIRS
    peft_type: ClassVar[str] = IN_PLACE
    peft_flags: ClassVar[Mapping[str, bool]] = {"biases_only": True}
    not_for_peft: ClassVar[str] = NO_ADAPTER
    not_for_vllm: ClassVar[str] = NO_ADAPTER
    in_place: ClassVar[str] = "biases"

    def trains(self, name: str) -> bool:
        """Return whether the parameter is a bias; some architectures say before the word what it is added to."""
        last = name.rpartition(".")[2]
        return last == "bias" or last.endswith("_bias")


class FullLayer(LayerRecord):
    """All parameters of the base."""

    kind: Literal["full"] = Field("full", description="all parameters of the base, trained where they are")
    source: ClassVar[str] = "Devlin et al. 2018, fine-tuning of every parameter (BERT), arXiv 1810.04805"
    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = WITHOUT_PAIRS
    peft_type: ClassVar[str] = IN_PLACE
    peft_flags: ClassVar[Mapping[str, bool]] = {"biases_only": False}
    not_for_peft: ClassVar[str] = NO_ADAPTER
    not_for_vllm: ClassVar[str] = NO_ADAPTER
    in_place: ClassVar[str] = "parameters"
    trains_weights: ClassVar[bool] = True

    def trains(self, name: str) -> bool:
        """Return True."""
        return True


class HoulsbyLayer(LayerRecord):
    """Bottlenecks behind the outputs of attention and feed-forward in every block."""

    kind: Literal["houlsby"] = Field("houlsby", description="h + W_u f(W_d h), behind attention and feed-forward")
    activation: Activation = Field("gelu", description="f; the paper's code has gelu")

    source: ClassVar[str] = "Houlsby et al. 2019, bottleneck adapters, arXiv 1902.00751"
    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = WITHOUT_PAIRS
    peft_type: ClassVar[str] = BOTTLENECK
    peft_flags: ClassVar[Mapping[str, bool]] = {"after_attention": True}
    not_for_peft: ClassVar[str] = NO_BOTTLENECKS
    not_for_vllm: ClassVar[str] = "it knows LoRA, and these are bottlenecks"
    not_merged: ClassVar[str] = NOT_LINEAR
    places: ClassVar[tuple[Place, ...]] = (Place.ATTENTION, Place.FEED_FORWARD)


class PfeifferLayer(LayerRecord):
    """Bottlenecks behind the output of the feed-forward in every block."""

    kind: Literal["pfeiffer"] = Field("pfeiffer", description="h + W_u f(W_d h), behind the feed-forward")
    activation: Activation = Field("relu", description="f; the paper's code has relu")

    source: ClassVar[str] = "Pfeiffer et al. 2020, AdapterFusion, arXiv 2005.00247"
    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = WITHOUT_PAIRS
    peft_type: ClassVar[str] = BOTTLENECK
    peft_flags: ClassVar[Mapping[str, bool]] = {"after_attention": False}
    not_for_peft: ClassVar[str] = NO_BOTTLENECKS
    not_for_vllm: ClassVar[str] = "it knows LoRA, and these are bottlenecks"
    not_merged: ClassVar[str] = NOT_LINEAR
    places: ClassVar[tuple[Place, ...]] = (Place.FEED_FORWARD,)


class PromptLayer(LayerRecord):
    """Embeddings of virtual tokens before every row."""

    kind: Literal["prompt"] = Field("prompt", description="embeddings of virtual tokens before every row")
    tokens: int = Field(20, ge=1, le=2**16, description="the number of virtual tokens")
    init: Literal["vocabulary", "normal"] = Field(
        "vocabulary", description="where they start: embeddings of drawn tokens, or normal with deviation 1"
    )

    source: ClassVar[str] = "Lester, Al-Rfou, Constant 2021, prompt tuning, arXiv 2104.08691"
    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = (*WITHOUT_PAIRS, *OF_ADAPTERS)
    peft_type: ClassVar[str] = "PROMPT_TUNING"
    peft_flags: ClassVar[Mapping[str, bool]] = {}
    not_for_vllm: ClassVar[str] = "it knows LoRA, and this is a prompt"
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


class PrefixLayer(LayerRecord):
    """Keys and values of virtual tokens before those of every row, in every layer's attention."""

    kind: Literal["prefix"] = Field("prefix", description="keys and values of virtual tokens in every layer")
    tokens: int = Field(20, ge=1, le=2**16, description="the number of virtual tokens")
    projection: Annotated[int, Field(ge=1, le=2**16)] | None = Field(
        None, description="the width of an MLP that makes keys and values of one vector a token; null: none"
    )

    source: ClassVar[str] = "Li, Liang 2021, prefix tuning, arXiv 2101.00190"
    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = (*WITHOUT_PAIRS, *OF_ADAPTERS)
    peft_type: ClassVar[str] = "PREFIX_TUNING"
    peft_flags: ClassVar[Mapping[str, bool]] = {}
    not_for_vllm: ClassVar[str] = "it knows LoRA, and this is a prefix"
    not_merged: ClassVar[str] = NO_WEIGHTS
    is_virtual: ClassVar[bool] = True
    keeps_cache: ClassVar[bool] = True

    @property
    def reserved(self) -> int:
        """The number of virtual tokens."""
        return self.tokens

    @property
    def begins_as_base(self) -> bool:
        """False: any token before a row changes what is read of it."""
        return False


class StellaLayer(LayerRecord):
    """W + s U S V^T, where U and V have orthonormal columns."""

    kind: Literal["stella"] = Field("stella", description="W + s U S V^T, U and V with orthonormal columns")
    diagonal: bool = Field(False, description="S has r numbers, its diagonal; else it is a matrix [r, r]")
    s_initial: float = Field(
        1.0, ge=-1e3, le=1e3, description="S begins as this multiple of the identity; 0: the model begins as its base"
    )

    source: ClassVar[str] = "Li et al. 2025, StelLA, arXiv 2510.01938"
    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = ("start", "lr_ratio")
    has_frames: ClassVar[bool] = True
    needs_full_rank: ClassVar[bool] = True
    peft_flags: ClassVar[Mapping[str, bool]] = LoRALayer.peft_flags

    @property
    def begins_as_base(self) -> bool:
        return self.s_initial == 0


LayerChoice = Annotated[
    LoRALayer
    | DoRALayer
    | VeRALayer
    | BiasLayer
    | FullLayer
    | HoulsbyLayer
    | PfeifferLayer
    | PromptLayer
    | PrefixLayer
    | StellaLayer,
    Field(discriminator="kind"),
]
LayerKind = Literal["lora", "dora", "vera", "bias", "full", "houlsby", "pfeiffer", "prompt", "prefix", "stella"]
LAYERS: dict[str, type[LayerChoice]] = by_kind(LayerChoice)


def check_settings(layer: LayerChoice, chosen: Mapping[str, object], usual: Mapping[str, object]) -> None:
    """Raises a refusal for a setting that has no meaning with the layer. chosen: settings of adapters by their keys.
    usual: the values of the same keys that change nothing.
    """
    for key, value in chosen.items():
        if value == usual[key]:
            continue
        if layer.in_place:
            reason = f"{key} {value} is for adapters, and layer {layer} trains the base's own {layer.in_place}"
            raise refusal(key, reason, f"leave method.{key} out, or choose another method.layer")
        if key not in layer.meaningless:
            continue
        if key in OF_ADAPTERS:
            reason = f"{key} {value} is for adapters of modules, and layer {layer} puts virtual tokens before rows"
            raise refusal(key, reason, f"leave method.{key} out, and set method.layer.tokens", also="layer")
        reason = f"{key} {value} is for pairs A, B, and layer {layer} trains none"
        raise refusal(key, reason, f"set method.{key}={usual[key]}, or name the preset of this layer", also="layer")


def layer_of(peft_type: str, flags: Mapping[str, bool]) -> LayerChoice:
    """Return the layer that PEFT's config describes, the first of those whose files are alike. flags: all its settings
    that any layer has among its `peft_flags`. Raises KeyError where there is none.
    """
    for layer in LAYERS.values():
        if layer.peft_type == peft_type and layer.peft_flags.items() <= flags.items():
            return layer()
    raise KeyError(f"no layer has PEFT's type {peft_type} with {dict(flags)}")
