"""Write and read PEFT's `adapter_config.json`, and refuse settings that would be misread."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

from reflora_cli.adapter_io.peft_rules import readable
from reflora_cli.adapters.frozen import TransposedWeight
from reflora_cli.adapters.inject import Adapted
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.adapters.ties import is_inside
from reflora_cli.factors.pair import scaling_factor
from reflora_cli.ground import strict_json
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.patterns import matches_whole
from reflora_cli.methods.axes import Scaling
from reflora_cli.methods.method import Method

T = TypeVar("T")

UNSUPPORTED = (
    "lora_bias", "layers_to_transform", "layer_replication", "trainable_token_indices", "exclude_modules",
    "use_qalora", "alora_invocation_tokens", "use_bdlora", "arrow_config", "megatron_config",
)  # fmt: skip
LARGEST_ALPHA = 1e9
"""The largest alpha that is read; with a larger one everything computed is infinite."""
EXPECTED = {
    "r": "a whole number, at least 1",
    "lora_alpha": f"a number between -{LARGEST_ALPHA:g} and {LARGEST_ALPHA:g}",
    "lora_dropout": "a number from 0, below 1",
    "target_modules": "a list of names, or a regular expression",
    "target_parameters": "a list of names, or null",
    "modules_to_save": "a list of names, or null",
    "bias": "'none'",
    "rank_pattern": "names or regular expressions, each with a whole number of at least 1",
    "alpha_pattern": "names or regular expressions, each with a number",
    "init_lora_weights": "true, false or a name",
}
"""The values that settings of a config may have, where they are not just true or false."""
PEFT_HEADS = ("classifier", "score")
"""The ends of the paths of modules that PEFT saves whole for a classifier, whatever its config says."""
BASE_MOVING_INITS = ("pissa", "olora", "loftq", "corda", "lora_ga")


class PeftConfig(BaseModel):
    """What we read of PEFT's `adapter_config.json`; other keys are kept by PEFT and ignored here."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    peft_type: str
    r: int = Field(8, ge=1)
    lora_alpha: float = Field(8.0, ge=-LARGEST_ALPHA, le=LARGEST_ALPHA)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: list[str] | str
    target_parameters: list[str] | None = None
    modules_to_save: list[str] | None = None
    ensure_weight_tying: bool = False
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
    """Return `adapter_config.json` for an adapter of `method`; base is (model name or path, revision)."""
    transposed = any(isinstance(layer.frozen, TransposedWeight) for layer in adapted.layers.values())
    rank, ranks = common_and_others({name: layer.rank for name, layer in adapted.layers.items()})
    alphas = {name: alpha_of(layer, method) for name, layer in adapted.layers.items()}
    config = {
        "peft_type": method.layer.peft_type,
        "task_type": task_type if heads_travel(model, saved, task_type) else None,
        "base_model_name_or_path": base[0],
        "revision": base[1],
        "inference_mode": True,
        "r": rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        **method.layer.peft_flags,
        "use_rslora": method.scaling is Scaling.RSLORA,
        "target_modules": shortest_targets(model, list(adapted.layers)),
        "modules_to_save": list(saved),
        "bias": "none",
        "fan_in_fan_out": transposed,
        "init_lora_weights": True,
        "rank_pattern": {re.escape(name): own for name, own in ranks.items()},
        "alpha_pattern": {re.escape(name): own for name, own in alphas.items() if own != method.alpha},
    }
    return readable(config, model, adapted.layers)


def alpha_of(layer: AdapterLayer, method: Method) -> float:
    """Return the alpha that gives the layer its scale; one begun from an adapter may have another than the method's."""
    if layer.scale == scaling_factor(method.scaling, method.alpha, layer.rank):
        return method.alpha
    return float(f"{layer.scale / scaling_factor(method.scaling, 1.0, layer.rank):.12g}")


def common_and_others(values: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    """Return the value that most names have, and the other names with their values."""
    common = Counter(values.values()).most_common(1)[0][0]
    return common, {name: value for name, value in values.items() if value != common}


def heads_travel(model: nn.Module, saved: Sequence[str], task_type: str) -> bool:
    """Whether the adapter holds what PEFT saves by itself for the kind of task: PEFT fails where it is not there.

    For SEQ_CLS these are the modules whose paths end with "classifier" or "score".
    """
    own = [path for path, _ in model.named_modules() if task_type == "SEQ_CLS" and path.endswith(PEFT_HEADS)]
    return all(is_inside(path, saved) for path in own)


def shortest_targets(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return last path parts if by PEFT's rules they name exactly the adapted modules, else their full paths.

    PEFT adapts, or refuses, every module of such a name, linear or not.
    """
    short = sorted({name.rpartition(".")[2] for name in names})
    present = {path for path, _ in model.named_modules()}
    return short if {path for path in present if ends_with(path, short)} == set(names) else list(names)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises InputError."""
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
    """Return PEFT's config of an adapter.

    Raises InputError: first for another kind of adapter, then for settings that are not supported here, then for values
    that are not valid.
    """
    settings = read_json(path)
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise InputError(Problem("unsupported kind of adapter", f"{path}, peft_type", repr(kind), "'LORA'"))
    if refused := unsupported(settings):
        raise InputError(*(Problem("unsupported adapter setting", str(path), found=setting) for setting in refused))
    try:
        return PeftConfig.model_validate(settings)
    except ValidationError as error:
        wrong = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors())
        problems = (
            Problem(
                f"{key} is not what PEFT writes" if key in settings else f"the adapter's config has no {key}",
                f"{path}, {key}",
                found=json.dumps(settings.get(key))[:80],
                expected=EXPECTED.get(key, "true or false"),
            )
            for key in wrong
        )
        raise InputError(*problems) from error


def unsupported(settings: Mapping[str, Any]) -> list[str]:
    """Return the settings of an adapter's config that change its output in a way that is not supported here."""
    refused = [f"{name} = {settings[name]!r}"[:120] for name in UNSUPPORTED if settings.get(name)]
    parameters = settings.get("target_parameters")
    if isinstance(parameters, list) and (stacked := [name for name in parameters if not str(name).endswith(".weight")]):
        refused.append(f"target_parameters = {stacked!r}"[:120])
    if settings.get("bias") not in (None, "none"):
        refused.append(f"bias = {settings['bias']!r}")
    init = settings.get("init_lora_weights")
    if isinstance(init, str) and init.startswith(BASE_MOVING_INITS):
        refused.append(f"init_lora_weights = {init!r}, which moves the base's weights")
    return refused


def is_target(name: str, config: PeftConfig) -> bool:
    """Whether PEFT adapts the module: a string is a regular expression for the whole path, list entries are trailing
    parts of it.

    Parameters that are targets by their own names are adapted as the linear layers to which they belong.
    """
    targets = config.target_modules
    if ends_with(f"{name}.weight", config.target_parameters or ()):
        return True
    return matches_whole(targets, name, "target_modules") if isinstance(targets, str) else ends_with(name, targets)


def ends_with(name: str, endings: Iterable[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def pattern_value(patterns: Mapping[str, T], name: str, default: T) -> T:
    """Return PEFT's per-module override: the value of the first pattern that matches the end of the module's path."""
    found = (value for key, value in patterns.items() if matches_whole(rf"(.*\.)?({key})", name, "the patterns"))
    return next(found, default)
