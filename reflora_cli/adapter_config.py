"""PEFT's `adapter_config.json`: what we write, what we read, and what we refuse to misread."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from reflora_cli import strict_json
from reflora_cli.adapters.frozen import TransposedWeight
from reflora_cli.adapters.inject import Adapted, adaptable_names
from reflora_cli.errors import InputError, Problem
from reflora_cli.methods import Layer, Method, Scaling
from reflora_cli.patterns import matches_whole

T = TypeVar("T")

UNSUPPORTED = (
    "lora_bias", "layers_to_transform", "layer_replication", "target_parameters", "trainable_token_indices",
    "exclude_modules", "use_qalora", "alora_invocation_tokens", "use_bdlora", "arrow_config", "megatron_config",
)  # fmt: skip
LARGEST_ALPHA = 1e9
"""Beyond, nothing but infinities is computed."""
BASE_MOVING_INITS = ("pissa", "olora", "loftq", "corda", "lora_ga")


class PeftConfig(BaseModel):
    """What we read of PEFT's `adapter_config.json`; other keys are kept by PEFT and ignored here."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    peft_type: str
    r: int = Field(8, ge=1)
    lora_alpha: float = Field(8.0, ge=-LARGEST_ALPHA, le=LARGEST_ALPHA)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: list[str] | str
    modules_to_save: list[str] | None = None
    use_dora: bool = False
    use_rslora: bool = False
    bias: str = "none"
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = {}
    alpha_pattern: dict[str, Annotated[float, Field(ge=-LARGEST_ALPHA, le=LARGEST_ALPHA)]] = {}
    init_lora_weights: bool | str | None = True


def peft_config(
    model: nn.Module,
    adapted: Adapted,
    method: Method,
    saved: Sequence[str],
    base: tuple[str, str | None],
    task_type: Literal["SEQ_CLS", "CAUSAL_LM"],
) -> dict[str, Any]:
    """`adapter_config.json` for an adapter of `method`; base is (model name or path, revision)."""
    transposed = any(isinstance(layer.frozen, TransposedWeight) for layer in adapted.layers.values())
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base[0],
        "revision": base[1],
        "inference_mode": True,
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "use_dora": method.layer is Layer.DORA,
        "use_rslora": method.scaling is Scaling.RSLORA,
        "target_modules": shortest_targets(model, list(adapted.layers)),
        "modules_to_save": list(saved),
        "bias": "none",
        "fan_in_fan_out": transposed,
        "init_lora_weights": True,
        "rank_pattern": {},
        "alpha_pattern": {},
    }


def shortest_targets(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Last path parts if they name exactly the adapted modules by PEFT's rules, else their full paths."""
    short = sorted({name.rpartition(".")[2] for name in names})
    linear = {*adaptable_names(model), *names}
    return short if {name for name in linear if ends_with(name, short)} == set(names) else list(names)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError."""
    try:
        value = strict_json.loads(path.read_text(encoding="utf-8"))
    except strict_json.RepeatedKeyError as error:
        where = f"{path}, line {error.line}"
        raise InputError(
            Problem("a key stands twice in one object", where, repr(error.key), "each key once")
        ) from error
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(Problem("the file is not valid JSON", str(path), str(error))) from error
    if not isinstance(value, dict):
        raise InputError(Problem("the file is not a JSON object", str(path), type(value).__name__))
    return value


def read_config(path: Path) -> PeftConfig:
    try:
        config = PeftConfig.model_validate(read_json(path))
    except ValidationError as error:
        problems = (
            Problem(detail["msg"], f"{path}, {'.'.join(map(str, detail['loc']))}", found=repr(detail["input"])[:80])
            for detail in error.errors()
        )
        raise InputError(*problems) from error
    if config.peft_type != "LORA":
        raise InputError(Problem("unsupported kind of adapter", str(path), repr(config.peft_type), "'LORA'"))
    settings = config.model_extra or {}
    refused = [f"{name} = {settings[name]!r}" for name in UNSUPPORTED if settings.get(name)]
    if config.bias != "none":
        refused.append(f"bias = {config.bias!r}")
    if isinstance(config.init_lora_weights, str) and config.init_lora_weights.startswith(BASE_MOVING_INITS):
        refused.append(f"init_lora_weights = {config.init_lora_weights!r}, which moves the base's weights")
    if refused:
        raise InputError(*(Problem("unsupported adapter setting", str(path), found=setting) for setting in refused))
    return config


def is_target(name: str, config: PeftConfig) -> bool:
    """PEFT's rule: a string is a regular expression for the whole path, list entries are trailing parts of it."""
    targets = config.target_modules
    return matches_whole(targets, name, "target_modules") if isinstance(targets, str) else ends_with(name, targets)


def ends_with(name: str, endings: Iterable[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def pattern_value(patterns: Mapping[str, T], name: str, default: T) -> T:
    """PEFT's per-module override: the first pattern that matches the end of the module's path."""
    found = (value for key, value in patterns.items() if matches_whole(rf"(.*\.)?({key})", name, "the patterns"))
    return next(found, default)
