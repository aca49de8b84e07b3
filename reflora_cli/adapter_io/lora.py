"""LoRA and DoRA in PEFT's format: peft_type LORA.

    base_model.model.<module>.lora_A.weight            A [r, in]
    base_model.model.<module>.lora_B.weight            B [out, r]
    base_model.model.<module>.lora_magnitude_vector    m [out], DoRA

Where the base was moved, the offset stands behind the factors, as [A; A_off] and [B, B_off]; PEFT computes with such an
adapter as with any other, and our record says how many of its ranks are the offset.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from reflora_cli.adapter_io.checks import Parts, check_shapes, check_size, largest
from reflora_cli.adapter_io.config import LARGEST_ALPHA, PeftConfig, pattern_value
from reflora_cli.adapters.dora import FILE_MAGNITUDE, DoRALinear
from reflora_cli.adapters.frozen import FrozenWeight, TransposedWeight
from reflora_cli.adapters.inject import Adapted
from reflora_cli.adapters.lora import LoRALinear
from reflora_cli.adapters.low_rank import FILE_A, FILE_B, LowRankLayer
from reflora_cli.factors.pair import scaling_factor
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.axes import Scaling
from reflora_cli.methods.method import Method

if TYPE_CHECKING:
    from reflora_cli.adapter_io.files import AdapterFiles

PEFT_TYPE = "LORA"
KEY = re.compile(r"(?P<module>.+)\.(?:(?P<factor>lora_[AB]\.weight)|lora_magnitude_vector(?:\.weight)?)")
OFFSET_RANKS = "offset_ranks"
"""The entry of our record that says, by module, how many ranks are an offset of the base."""
UNSUPPORTED = (
    "lora_bias", "layers_to_transform", "layer_replication", "trainable_token_indices", "exclude_modules",
    "use_qalora", "alora_invocation_tokens", "use_bdlora", "arrow_config", "megatron_config",
)  # fmt: skip
BASE_MOVING_INITS = ("pissa", "olora", "loftq", "corda", "lora_ga")
EXPECTED = {
    "r": "a whole number, at least 1",
    "lora_alpha": f"a number between -{LARGEST_ALPHA:g} and {LARGEST_ALPHA:g}",
    "lora_dropout": "a number from 0, below 1",
    "rank_pattern": "names or regular expressions, each with a whole number of at least 1",
    "alpha_pattern": "names or regular expressions, each with a number",
    "init_lora_weights": "true, false or a name",
}
"""The values that settings of a LoRA may have, where they are not just true or false."""


class LoraConfig(PeftConfig):
    """What we read of the config of a LoRA."""

    r: int = Field(8, ge=1)
    lora_alpha: float = Field(8.0, ge=-LARGEST_ALPHA, le=LARGEST_ALPHA)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    use_dora: bool = False
    use_rslora: bool = False
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field({})
    alpha_pattern: dict[str, Annotated[float, Field(ge=-LARGEST_ALPHA, le=LARGEST_ALPHA)]] = Field({})
    init_lora_weights: bool | str | None = True

    @property
    def scaling(self) -> Scaling:
        """How s is made of alpha and the rank."""
        return Scaling.RSLORA if self.use_rslora else Scaling.STANDARD

    def rank_of(self, module: str) -> int:
        """Return the rank of one module's factors."""
        return pattern_value(self.rank_pattern, module, self.r)

    def scale_of(self, module: str, rank: int) -> float:
        """Return s of one module."""
        return scaling_factor(self.scaling, pattern_value(self.alpha_pattern, module, self.lora_alpha), rank)


class LoraFormat:
    """The format of LoRA and DoRA."""

    peft_type = PEFT_TYPE
    config = LoraConfig
    expected = EXPECTED

    def part(self, key: str) -> tuple[str, str] | None:
        """Return the module and the part of the layer that a tensor's key names; None for any other key."""
        match = KEY.fullmatch(key)
        return None if match is None else (match["module"], match["factor"] or FILE_MAGNITUDE)

    def unsupported(self, settings: Mapping[str, Any]) -> list[str]:
        """Return the settings of an adapter's config that change its output in a way that is not supported here."""
        refused = [f"{name} = {settings[name]!r}"[:120] for name in UNSUPPORTED if settings.get(name)]
        parameters = settings.get("target_parameters")
        if isinstance(parameters, list) and (own := [name for name in parameters if not str(name).endswith(".weight")]):
            refused.append(f"target_parameters = {own!r}"[:120])
        if settings.get("bias") not in (None, "none"):
            refused.append(f"bias = {settings['bias']!r}")
        init = settings.get("init_lora_weights")
        if isinstance(init, str) and init.startswith(BASE_MOVING_INITS):
            refused.append(f"init_lora_weights = {init!r}, which moves the base's weights")
        return refused

    def entries(self, adapted: Adapted, method: Method) -> dict[str, Any]:
        """Return what the config of a LoRA says beside the common part."""
        layers = {name: layer for name, layer in adapted.layers.items() if isinstance(layer, LowRankLayer)}
        rank, ranks = common_and_others({name: layer.rank + layer.offset_rank for name, layer in layers.items()})
        alphas = {name: alpha_of(layer, method) for name, layer in layers.items()}
        alpha = Counter(alphas.values()).most_common(1)[0][0]
        return {
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": method.dropout,
            "use_dora": any(isinstance(layer, DoRALinear) for layer in layers.values()),
            "use_rslora": method.scaling is Scaling.RSLORA,
            "fan_in_fan_out": any(isinstance(layer.frozen, TransposedWeight) for layer in layers.values()),
            "init_lora_weights": True,
            "rank_pattern": {re.escape(name): own for name, own in ranks.items()},
            "alpha_pattern": {re.escape(name): own for name, own in alphas.items() if own != alpha},
        }

    def record(self, adapted: Adapted) -> dict[str, Any]:
        """Return what our record says of the layers beside PEFT's config."""
        layers = {name: layer for name, layer in adapted.layers.items() if isinstance(layer, LowRankLayer)}
        offsets = {name: layer.offset_rank for name, layer in layers.items() if layer.offset_rank}
        return {OFFSET_RANKS: offsets} if offsets else {}

    def layer(self, files: AdapterFiles, name: str, frozen: FrozenWeight, tensors: Parts) -> LowRankLayer:
        """Return the layer of one module, made of its tensors. Raises InputError for tensors that do not fit it."""
        config = lora_config(files)
        rank, offset = config.rank_of(name), offset_rank(files, name)
        shapes: dict[str, tuple[int, ...]] = {FILE_A: (rank, frozen.in_features), FILE_B: (frozen.out_features, rank)}
        if config.use_dora:
            shapes[FILE_MAGNITUDE] = (frozen.out_features,)
        check_shapes(files.weights, name, shapes, tensors)
        scale = config.scale_of(name, rank)
        check_size(files.weights, name, abs(scale) * rank * largest(tensors[FILE_A]) * largest(tensors[FILE_B]))
        if config.use_dora:
            check_size(files.weights, name, largest(tensors[FILE_MAGNITUDE]))
        kind = DoRALinear if config.use_dora else LoRALinear
        return kind.restored(frozen, tensors, scale, config.lora_dropout, offset)


def lora_config(files: AdapterFiles) -> LoraConfig:
    """Return the config of a LoRA. Raises InputError for another kind of adapter."""
    if not isinstance(files.config, LoraConfig):
        what = "this needs an adapter with low-rank factors, in PEFT's format for LoRA"
        remedy = "merge it, and go on with the merged model: reflora merge RUN"
        raise InputError(Problem(what, str(files.directory), files.config.peft_type, PEFT_TYPE, remedy))
    return files.config


def offset_rank(files: AdapterFiles, name: str) -> int:
    """Return how many of a module's ranks are an offset of its base. Raises InputError for a record without sense."""
    ranks = files.record.get(OFFSET_RANKS, {})
    found = ranks.get(name, 0) if isinstance(ranks, dict) else ranks
    most = lora_config(files).rank_of(name) - 1
    if not isinstance(found, int) or not 0 <= found <= most:
        what, where = "the record of an adapter names an impossible rank of an offset", f"{files.directory}, {name}"
        raise InputError(Problem(what, where, repr(found), f"from 0 to {most}"))
    return found


def trained_rank(files: AdapterFiles) -> int:
    """Return the rank that most modules' factors have without the offset."""
    config = lora_config(files)
    offsets: dict[str, int] = files.record.get(OFFSET_RANKS) or {"": 0}
    return config.r - common_and_others(offsets)[0]


def alpha_of(layer: LowRankLayer, method: Method) -> float:
    """Return the alpha that gives the layer its scale at the rank of its tensors; often the method's own."""
    rank = layer.rank + layer.offset_rank
    if layer.scale == scaling_factor(method.scaling, method.alpha, rank):
        return method.alpha
    return float(f"{layer.scale / scaling_factor(method.scaling, 1.0, rank):.12g}")


def common_and_others(values: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """Return the value that most names have, and the other names with their values."""
    common = Counter(values.values()).most_common(1)[0][0]
    return common, {name: value for name, value in values.items() if value != common}
