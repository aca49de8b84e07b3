"""LoRA and DoRA in PEFT's format: peft_type LORA.

    base_model.model.<module>.lora_A.weight            A [r, in]
    base_model.model.<module>.lora_B.weight            B [out, r]
    base_model.model.<module>.lora_magnitude_vector    m [out], DoRA

Where the base was moved, the offset stands behind the factors, as [A; A_off] and [B, B_off]; PEFT computes with such an
adapter as with any other, and our record says how many of its ranks are the offset. The last of these may have been
added to a base before it was quantized, which the record says too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from reflora_cli.adapter_io.adapter_format import AdapterFormat, has_transposed
from reflora_cli.adapter_io.checks import Parts, check_shapes, check_size, largest
from reflora_cli.adapter_io.config import LARGEST_ALPHA, PeftConfig, pattern_value
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.dora import FILE_MAGNITUDE, DoRALinear
from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.adapters.lora import LoRALinear
from reflora_cli.adapters.lora_xs import LoRAXSLinear
from reflora_cli.adapters.low_rank import EARLY_A, EARLY_B, FILE_A, FILE_B, LowRankLayer
from reflora_cli.factors.pair import scaling_factor
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.axes import Scaling
from reflora_cli.methods.layers import layer_of
from reflora_cli.methods.method import Method

if TYPE_CHECKING:
    from reflora_cli.adapter_io.files import AdapterFiles

N = TypeVar("N", int, float)

PEFT_TYPE = "LORA"
KEY = re.compile(r"(?P<module>.+)\.(?:(?P<factor>lora_[AB]\.weight)|lora_magnitude_vector(?:\.weight)?)")
OFFSET_RANKS = "offset_ranks"
"""The entry of our record that says, by module, how many ranks are an offset of the base."""
EARLY_RANKS = "offset_ranks_before_quantization"
"""The entry that says how many of these, the last ones, were added to the base before it was quantized."""
UNSUPPORTED = (
    "lora_bias", "layers_to_transform", "layer_replication", "trainable_token_indices", "exclude_modules",
    "use_qalora", "alora_invocation_tokens", "use_bdlora", "arrow_config", "megatron_config",
)  # fmt: skip
BASE_MOVING_INITS = ("pissa", "olora", "loftq", "corda", "lora_ga")
CONVERT = (
    "let PEFT convert it for the unchanged base: save_pretrained(..., path_initial_model_for_weight_conversion=DIR), "
    "where DIR holds the adapter as it was before the first step"
)
"""What to do with such an adapter."""
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

    def with_dropout(self, dropout: float) -> LoraConfig:
        """Return the config of the same adapter, trained with another dropout."""
        return self.model_copy(update={"lora_dropout": dropout})

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


class LoraFormat(AdapterFormat):
    """The format of LoRA and DoRA, and of layers that are LoRA in files."""

    peft_type = PEFT_TYPE
    config = LoraConfig
    expected = EXPECTED

    def part(self, key: str) -> tuple[str, str] | None:
        """Return the module and the part of the layer that a tensor's key names; None for any other key."""
        match = KEY.fullmatch(key)
        return None if match is None else (match["module"], match["factor"] or FILE_MAGNITUDE)

    def unsupported(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return the settings of an adapter's config that change its output in a way that is not supported here, each
        with a remedy; an empty one where there is none.
        """
        refused = {f"{name} = {settings[name]!r}"[:120]: "" for name in UNSUPPORTED if settings.get(name)}
        parameters = settings.get("target_parameters")
        if isinstance(parameters, list) and (own := [name for name in parameters if not str(name).endswith(".weight")]):
            refused[f"target_parameters = {own!r}"[:120]] = ""
        if settings.get("bias") not in (None, "none"):
            refused[f"bias = {settings['bias']!r}"[:120]] = ""
        init = settings.get("init_lora_weights")
        if isinstance(init, str) and init.startswith(BASE_MOVING_INITS):
            refused[f"init_lora_weights = {init!r}, which moves the base's weights"[:120]] = CONVERT
        return refused

    def settings(self, files: AdapterFiles) -> dict[str, Any]:
        """Return the fields of a method that an adapter decides, without its targets."""
        config, (rank, alpha) = lora_config(files), trained_rank_and_alpha(files)
        return {
            "rank": rank,
            "alpha": alpha,
            "scaling": config.scaling,
            "layer": layer_of(config.peft_type, {"use_dora": config.use_dora}),
        }

    def entries(self, adapted: Adapted, method: Method) -> dict[str, Any]:
        """Return what the config of a LoRA says beside the common part."""
        layers = {
            name: layer for name, layer in adapted.layers.items() if isinstance(layer, LowRankLayer | LoRAXSLinear)
        }
        rank, ranks = common_and_others({name: layer.rank + layer.offset_rank for name, layer in layers.items()})
        alphas = {name: alpha_of(layer, method) for name, layer in layers.items()}
        alpha = Counter(alphas.values()).most_common(1)[0][0]
        return {
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": method.dropout,
            "use_dora": any(isinstance(layer, DoRALinear) for layer in layers.values()),
            "use_rslora": method.scaling is Scaling.RSLORA,
            "fan_in_fan_out": has_transposed(adapted),
            "init_lora_weights": True,
            "rank_pattern": {re.escape(name): own for name, own in ranks.items()},
            "alpha_pattern": {re.escape(name): own for name, own in alphas.items() if own != alpha},
        }

    def record(self, adapted: Adapted) -> dict[str, Any]:
        """Return what our record says of the layers beside PEFT's config."""
        layers = {name: layer for name, layer in adapted.layers.items() if isinstance(layer, LowRankLayer)}
        offsets = {name: layer.offset_rank for name, layer in layers.items() if layer.offset_rank}
        early = {name: layer.early_rank for name, layer in layers.items() if layer.early_rank}
        return {**({OFFSET_RANKS: offsets} if offsets else {}), **({EARLY_RANKS: early} if early else {})}

    def maker(self, files: AdapterFiles, weights: Mapping[str, FrozenWeight]) -> Callable[[str, Parts], LowRankLayer]:
        """Return the function that makes the layer of a module from its tensors."""
        return lambda name, tensors: self.layer(files, name, weights[name], tensors)

    def layer(self, files: AdapterFiles, name: str, frozen: FrozenWeight, tensors: Parts) -> LowRankLayer:
        """Return the layer of one module, made of its tensors. Raises InputError for tensors that do not fit it."""
        config = lora_config(files)
        rank, offset = config.rank_of(name), offset_rank(files, name)
        early = early_rank(files, name, offset)
        shapes: dict[str, tuple[int, ...]] = {FILE_A: (rank, frozen.in_features), FILE_B: (frozen.out_features, rank)}
        if config.use_dora:
            shapes[FILE_MAGNITUDE] = (frozen.out_features,)
        check_shapes(files.weights, name, shapes, tensors)
        scale = config.scale_of(name, rank)
        check_size(files.weights, name, abs(scale) * rank * largest(tensors[FILE_A]) * largest(tensors[FILE_B]))
        if config.use_dora:
            check_size(files.weights, name, largest(tensors[FILE_MAGNITUDE]))
        kind = DoRALinear if config.use_dora else LoRALinear
        return kind.restored(frozen, split_early(tensors, early), scale, config.lora_dropout, offset - early)


def lora_config(files: AdapterFiles) -> LoraConfig:
    """Return the config of a LoRA. Raises InputError for another kind of adapter."""
    if not isinstance(files.config, LoraConfig):
        what = "this needs an adapter with low-rank factors, in PEFT's format for LoRA"
        remedy = "merge the adapter, and use the merged model instead: reflora merge RUN"
        raise InputError(Problem(what, str(files.directory), files.config.peft_type, PEFT_TYPE, remedy))
    return files.config


def offset_rank(files: AdapterFiles, name: str) -> int:
    """Return how many of a module's ranks are an offset of its base. Raises InputError for a record without sense."""
    return recorded_rank(files, OFFSET_RANKS, name, lora_config(files).rank_of(name) - 1)


def early_rank(files: AdapterFiles, name: str, offset: int) -> int:
    """Return how many of a module's `offset` ranks were added before its base was quantized. Raises InputError as
    `offset_rank`.
    """
    return recorded_rank(files, EARLY_RANKS, name, offset)


def recorded_rank(files: AdapterFiles, entry: str, name: str, most: int) -> int:
    """Return what an entry of our record says of a module, 0 where it says nothing. Raises InputError beyond `most`."""
    ranks = files.record.get(entry, {})
    found = ranks.get(name, 0) if isinstance(ranks, dict) else ranks
    if not isinstance(found, int) or not 0 <= found <= most:
        what, where = "the adapter's own record holds an impossible rank of an offset", f"{files.directory}, {name}"
        raise InputError(Problem(what, where, repr(found), f"from 0 to {most}"))
    return found


def split_early(tensors: Parts, rank: int) -> Parts:
    """Return a layer's tensors with the last `rank` ranks by themselves, as `LowRankLayer.restored` takes them."""
    if not rank:
        return tensors
    A, B = tensors[FILE_A], tensors[FILE_B]
    return {**tensors, FILE_A: A[:-rank], FILE_B: B[:, :-rank], EARLY_A: A[-rank:], EARLY_B: B[:, -rank:]}


def without_offset(files: AdapterFiles) -> AdapterFiles:
    """Return the adapter as any other reader of LoRA sees it: the offset is a part of its factors, on an unmoved base.

    Where the base is quantized, that is another model than the one that was trained: a moved base was quantized again.
    """
    return replace(
        files, record={key: own for key, own in files.record.items() if key not in (OFFSET_RANKS, EARLY_RANKS)}
    )


def trained_rank_and_alpha(files: AdapterFiles) -> tuple[int, float]:
    """Return the rank that most modules' factors have without the offset, and the alpha that gives them their scale.

    Without an offset these are the config's own.
    """
    config = lora_config(files)
    if not files.record.get(OFFSET_RANKS):
        return config.r, config.lora_alpha
    parts = map(LoraFormat().part, files.tensors)
    modules = dict.fromkeys(part[0] for part in parts if part is not None)
    ranks = {name: config.rank_of(name) - offset_rank(files, name) for name in modules}
    rank = common_and_others(ranks)[0]
    scales = {name: config.scale_of(name, config.rank_of(name)) for name in modules if ranks[name] == rank}
    return rank, alpha_for(common_and_others(scales)[0], config.scaling, rank)


def alpha_of(layer: LowRankLayer | LoRAXSLinear, method: Method) -> float:
    """Return the alpha that gives the layer its scale at the rank of its tensors; often the method's own."""
    rank = layer.rank + layer.offset_rank
    if layer.scale == scaling_factor(method.scaling, method.alpha, rank):
        return method.alpha
    return alpha_for(layer.scale, method.scaling, rank)


def alpha_for(scale: float, scaling: Scaling, rank: int) -> float:
    """Return the alpha that gives this scale at this rank: a short number if one gives it exactly."""
    alpha = scale / scaling_factor(scaling, 1.0, rank)
    short = float(f"{alpha:.12g}")
    return short if scaling_factor(scaling, short, rank) == scale else alpha


def common_and_others(values: Mapping[str, N]) -> tuple[N, dict[str, N]]:
    """Return the value that most names have, and the other names with their values."""
    common = Counter(values.values()).most_common(1)[0][0]
    return common, {name: value for name, value in values.items() if value != common}
