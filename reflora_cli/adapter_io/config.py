"""What PEFT's `adapter_config.json` says of adapters of any kind, and which modules it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict
from torch import nn

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.ties import is_inside
from reflora_cli.ground import strict_json
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.patterns import matches_whole

T = TypeVar("T")

LARGEST_ALPHA = 1e9
"""The largest alpha that is read; with a larger one everything computed is infinite."""
PEFT_HEADS = ("classifier", "score")
"""The ends of the paths of modules that PEFT saves whole for a classifier, whatever its config says."""
TaskType = Literal["SEQ_CLS", "CAUSAL_LM"]


class PeftConfig(BaseModel):
    """What we read of PEFT's `adapter_config.json` of any kind; other keys are kept by PEFT and ignored here.

    prefix: what stands before a module's path in the keys of tensors. left_out: the common entries that PEFT's config
    of this kind does not have.
    """

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    prefix: ClassVar[str] = "base_model.model."
    left_out: ClassVar[tuple[str, ...]] = ()

    peft_type: str
    target_modules: list[str] | str
    target_parameters: list[str] | None = None
    modules_to_save: list[str] | None = None
    ensure_weight_tying: bool = False
    bias: str = "none"

    @property
    def shared(self) -> tuple[str, ...]:
        """The keys of tensors that belong to no module: all layers of the adapter share them."""
        return ()

    @property
    def in_place(self) -> tuple[str, ...]:
        """The names of the base's parameters that the adapter holds because they were trained where they are."""
        return ()

    @property
    def virtual(self) -> int:
        """The number of virtual tokens that it puts before every row."""
        return 0

    def with_dropout(self, dropout: float) -> PeftConfig:
        """Return the config of the same adapter, trained with another dropout; itself where a kind has none."""
        return self


@dataclass(frozen=True)
class NamedBase:
    """A base as PEFT's configs name it: a directory or the name of a hub model, with its revision there."""

    name: str
    revision: str | None


def common_entries(
    model: nn.Module, adapted: Adapted, saved: Sequence[str], base: NamedBase, task_type: TaskType
) -> dict[str, Any]:
    """Return what `adapter_config.json` says of an adapter of any kind."""
    return {
        "task_type": task_type if heads_travel(model, saved, task_type) else None,
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "inference_mode": True,
        "target_modules": shortest_targets(model, list(adapted.layers)),
        "modules_to_save": list(saved),
        "bias": "none",
    }


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
