"""The choices of `layer`: how the adapted weight is computed from W, A and B."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from reflora_cli.methods.choice import by_kind, refusal
from reflora_cli.methods.layer_record import OF_ADAPTERS, OF_PAIRS, WITHOUT_PAIRS, LayerRecord
from reflora_cli.methods.unmerged_layers import HoulsbyLayer, PfeifferLayer, PrefixLayer, PromptLayer

IN_PLACE = "REFLORA_IN_PLACE"
"""The type of adapter under which our files hold parameters of the base that were trained where they are."""
NO_ADAPTER = "the run trained the base's own parameters, for which PEFT has no type of adapter"


class LoRALayer(LayerRecord):
    """W + s B A."""

    kind: Literal["lora"] = Field("lora", description="W + s B A")
    source: ClassVar[str] = "Hu et al. 2021, LoRA, arXiv 2106.09685"
    peft_flags: ClassVar[Mapping[str, bool]] = {"use_dora": False}


class DoRALayer(LayerRecord):
    """The rows of W + s B A, rescaled to trained magnitudes."""

    kind: Literal["dora"] = Field("dora", description="the rows of W + s B A rescaled to trained magnitudes")
    source: ClassVar[str] = "Liu et al. 2024, DoRA, arXiv 2402.09353"
    peft_flags: ClassVar[Mapping[str, bool]] = {"use_dora": True}
    not_for_vllm: ClassVar[str] = "it does not support DoRA's magnitudes"


class VeRALayer(LayerRecord):
    """W + diag(b) B diag(d) A with random A, B that all layers share, and trained vectors d and b."""

    kind: Literal["vera"] = Field("vera", description="W + diag(b) B diag(d) A: A, B random and shared; d, b trained")
    d_initial: float = Field(0.1, ge=-1e3, le=1e3, description="initial value of every entry of d")
    projection_seed: int = Field(0, ge=0, lt=2**63, description="the seed of A and B, as PEFT's projection_prng_key")

    source: ClassVar[str] = "Kopiczko, Blankevoort, Asano 2023, VeRA, arXiv 2310.11454"
    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = WITHOUT_PAIRS
    unused: ClassVar[tuple[str, ...]] = ("alpha",)
    peft_type: ClassVar[str] = "VERA"
    peft_flags: ClassVar[Mapping[str, bool]] = {}
    not_for_vllm: ClassVar[str] = "it supports LoRA only, and this is VeRA"


class InPlaceLayer(LayerRecord):
    """Parameters of the base, trained where they are."""

    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = (*WITHOUT_PAIRS, *OF_ADAPTERS)
    peft_type: ClassVar[str] = IN_PLACE
    not_for_peft: ClassVar[str] = NO_ADAPTER
    not_for_vllm: ClassVar[str] = NO_ADAPTER


class BiasLayer(InPlaceLayer):
    """The base's own biases b, in y = W x + b and in norms."""

    kind: Literal["bias"] = Field("bias", description="the base's own biases are trained, without an adapter")
    source: ClassVar[str] = "Ben-Zaken et al. 2021, BitFit, arXiv 2106.10199"
    peft_flags: ClassVar[Mapping[str, bool]] = {"biases_only": True}
    in_place: ClassVar[str] = "biases"

    def trains(self, name: str) -> bool:
        """Return whether the parameter is a bias; some architectures say before the word what it is added to."""
        last = name.rpartition(".")[2]
        return last == "bias" or last.endswith("_bias")


class FullLayer(InPlaceLayer):
    """All parameters of the base."""

    kind: Literal["full"] = Field("full", description="all parameters of the base are trained, without an adapter")
    source: ClassVar[str] = "Devlin et al. 2018, fine-tuning of every parameter (BERT), arXiv 1810.04805"
    peft_flags: ClassVar[Mapping[str, bool]] = {"biases_only": False}
    in_place: ClassVar[str] = "parameters"
    trains_weights: ClassVar[bool] = True

    def trains(self, name: str) -> bool:
        """Return True."""
        return True


class StellaLayer(LayerRecord):
    """W + s U S V^T, where U and V have orthonormal columns."""

    kind: Literal["stella"] = Field("stella", description="W + s U S V^T, U and V with orthonormal columns")
    diagonal: bool = Field(False, description="true: S is diagonal, r numbers; false: S is a matrix [r, r]")
    s_initial: float = Field(
        1.0, ge=-1e3, le=1e3, description="S begins as this multiple of the identity; 0: the model begins as its base"
    )

    source: ClassVar[str] = "Li et al. 2025, StelLA, arXiv 2510.01938"
    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = ("start", "lr_ratio")
    has_frames: ClassVar[bool] = True
    needs_full_rank: ClassVar[bool] = True
    peft_flags: ClassVar[Mapping[str, bool]] = LoRALayer.peft_flags
    read_as: ClassVar[str] = "lora"

    @property
    def begins_as_base(self) -> bool:
        return self.s_initial == 0


class AdaLoRALayer(LayerRecord):
    """W + s B diag(E) A, whose least important triplets are removed during training."""

    kind: Literal["adalora"] = Field("adalora", description="W + s B diag(E) A, unimportant triplets removed")
    target_rank: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="triplets left at the end, on average over modules; auto: two thirds of the rank"
    )
    initial_steps: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="steps before the first triplet is removed; auto: a tenth of the run"
    )
    final_steps: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="steps at the end that remove no more triplets; auto: half of the run"
    )
    interval: int = Field(10, ge=1, description="steps between two removals of triplets")
    penalty: float = Field(
        0.1, ge=0, le=1e6, description="weight of the penalty that keeps A and B close to orthonormal"
    )
    beta1: float = Field(0.85, gt=0, lt=1, description="decay of the running mean of sensitivities")
    beta2: float = Field(0.85, gt=0, lt=1, description="decay of the running mean of their uncertainties")

    source: ClassVar[str] = "Zhang et al. 2023, AdaLoRA, arXiv 2303.10512"
    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = WITHOUT_PAIRS
    peft_type: ClassVar[str] = "ADALORA"
    peft_flags: ClassVar[Mapping[str, bool]] = {}
    not_for_vllm: ClassVar[str] = "it supports LoRA only, and this is AdaLoRA"

    def target(self, rank: int) -> int:
        """Return the triplets that are left in the end on average, for those of each module at the start."""
        return max(1, rank * 2 // 3) if self.target_rank == "auto" else self.target_rank

    def phases(self, steps: int) -> tuple[int, int]:
        """Return the steps before the first triplet is given up and those after the last, in a run of so many."""
        initial = steps // 10 if self.initial_steps == "auto" else self.initial_steps
        return initial, steps // 2 if self.final_steps == "auto" else self.final_steps

    def check_rank(self, rank: int) -> None:
        if self.target(rank) > rank:
            reason = (
                f"method.layer.target_rank={self.target_rank} is more than the rank at the start, method.rank={rank}"
            )
            raise refusal("layer.target_rank", reason, "raise method.rank, or lower method.layer.target_rank", "rank")

    def too_short(self, steps: int) -> str:
        initial, final = self.phases(steps)
        if initial + final < steps:
            return ""
        return (
            f"initial_steps {initial} and final_steps {final} leave none of {steps} steps in which to remove triplets"
        )


class IA3Layer(LayerRecord):
    """W with its outputs, or its inputs, multiplied by a trained vector."""

    kind: Literal["ia3"] = Field(
        "ia3", description="outputs of W, or inputs of feed-forward layers, scaled by a vector"
    )
    feedforward: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)] = Field(
        (
            "down_proj", "mlp.c_proj", "fc2", "fc_out", "dense_4h_to_h", "w2", "wo", "lin2",
            r".*(?<!attention\.)output\.dense",
        ),
        description="the targets whose inputs are scaled instead of outputs: names or regular expressions",
    )  # fmt: skip

    source: ClassVar[str] = "Liu et al. 2022, (IA)^3, arXiv 2205.05638"
    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = (*WITHOUT_PAIRS, "dropout")
    unused: ClassVar[tuple[str, ...]] = ("rank", "alpha")
    peft_type: ClassVar[str] = "IA3"
    peft_flags: ClassVar[Mapping[str, bool]] = {}
    not_for_vllm: ClassVar[str] = "it supports LoRA only, and this is (IA)^3"


class LoRAXSLayer(LayerRecord):
    """W + s U X V, where U and V come from the singular value decomposition of W, and X is trained."""

    kind: Literal["lora-xs"] = Field(
        "lora-xs", description="W + s U X V, U and V from W's singular triplets, X trained"
    )
    deviation: float = Field(
        1e-5, ge=0, le=1.0, description="standard deviation of the initial entries of X, which are normal"
    )

    source: ClassVar[str] = "Banaei et al. 2024, LoRA-XS, arXiv 2405.17604"
    has_pairs: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = WITHOUT_PAIRS
    needs_full_rank: ClassVar[bool] = True
    peft_flags: ClassVar[Mapping[str, bool]] = LoRALayer.peft_flags
    read_as: ClassVar[str] = "lora"

    @property
    def begins_as_base(self) -> bool:
        return self.deviation <= 1e-5


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
    | StellaLayer
    | AdaLoRALayer
    | IA3Layer
    | LoRAXSLayer,
    Field(discriminator="kind"),
]
LayerKind = Literal[
    "lora",
    "dora",
    "vera",
    "bias",
    "full",
    "houlsby",
    "pfeiffer",
    "prompt",
    "prefix",
    "stella",
    "adalora",
    "ia3",
    "lora-xs",
]
LAYERS: dict[str, type[LayerChoice]] = by_kind(LayerChoice)


def check_settings(layer: LayerChoice, chosen: Mapping[str, object], usual: Mapping[str, object]) -> None:
    """Raises a refusal for a setting that has no meaning with the layer. chosen: settings of adapters by their keys.
    usual: the values of the same keys that change nothing.
    """
    for key, value in chosen.items():
        if value == usual[key]:
            continue
        if layer.in_place:
            reason = (
                f"method.{key}={value} is for adapters, and method.layer={layer} trains the base's own {layer.in_place}"
            )
            raise refusal(key, reason, f"leave method.{key} out, or choose another method.layer")
        if key in layer.meaningless and key not in OF_PAIRS:
            reason = f"method.{key}={value} has no meaning with method.layer={layer}"
            raise refusal(key, reason, f"leave method.{key} out", also="layer")
        if key in layer.meaningless:
            reason = f"method.{key}={value} is for pairs A, B, and method.layer={layer} trains none"
            remedy = f"set method.{key}={usual[key]}, or method.name to the preset of this layer"
            raise refusal(key, reason, remedy, also="layer")


def layer_of(peft_type: str, flags: Mapping[str, bool]) -> LayerChoice:
    """Return the layer that PEFT's config describes, the first of those whose files are alike. flags: all its settings
    that any layer has among its `peft_flags`. Raises KeyError where there is none.
    """
    for layer in LAYERS.values():
        if not layer.read_as and layer.peft_type == peft_type and layer.peft_flags.items() <= flags.items():
            return layer()
    raise KeyError(f"no layer has PEFT's type {peft_type} with {dict(flags)}")
