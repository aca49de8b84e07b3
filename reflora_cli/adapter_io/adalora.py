"""AdaLoRA in PEFT's format: peft_type ADALORA.

    base_model.model.<module>.lora_A    A [k, in]
    base_model.model.<module>.lora_E    E [k, 1]
    base_model.model.<module>.lora_B    B [out, k]

Triplets whose E is zero are left out: `rank_pattern` of the config has, for every module, which of its `init_r`
triplets are in the file. A module may have none. PEFT's config has the schedule of a run too, which is over when the
file is written: only values with which PEFT reads it are written there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field
from torch import Tensor

from reflora_cli.adapter_io.adapter_format import AdapterFormat, has_transposed
from reflora_cli.adapter_io.checks import Parts, check_shapes, check_size, largest
from reflora_cli.adapter_io.config import LARGEST_ALPHA, PeftConfig
from reflora_cli.adapter_io.lora import LoraFormat
from reflora_cli.adapters.adalora import FILE_A, FILE_B, FILE_E, AdaLoRALinear, scale_for
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.layers import AdaLoRALayer
from reflora_cli.methods.method import Method

if TYPE_CHECKING:
    from reflora_cli.adapter_io.files import AdapterFiles

KEY = re.compile(rf"(?P<module>.+)\.(?P<part>{FILE_A}|{FILE_E}|{FILE_B})")
PREFIX = "base_model.model."
EXPECTED = {
    "init_r": "a whole number, at least 1",
    "lora_alpha": f"a number between -{LARGEST_ALPHA:g} and {LARGEST_ALPHA:g}",
    "lora_dropout": "a number from 0, below 1",
    "rank_pattern": "by module, a list of true and false; or null",
}
"""The values that settings of an AdaLoRA may have, where they are not just true or false."""


class AdaloraConfig(PeftConfig):
    """What we read of the config of an AdaLoRA."""

    init_r: int = Field(12, ge=1)
    lora_alpha: float = Field(8.0, ge=-LARGEST_ALPHA, le=LARGEST_ALPHA)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    rank_pattern: dict[str, list[bool]] | None = None

    def with_dropout(self, dropout: float) -> AdaloraConfig:
        return self.model_copy(update={"lora_dropout": dropout})

    def rank_of(self, module: str) -> int:
        """Return the number of a module's triplets in the file."""
        pattern = (self.rank_pattern or {}).get(f"{module}.{FILE_E}")
        return self.init_r if pattern is None else sum(pattern)


class AdaloraFormat(AdapterFormat):
    """The format of AdaLoRA."""

    peft_type = AdaLoRALayer.peft_type
    config = AdaloraConfig
    key = KEY
    expected = EXPECTED

    def unsupported(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return the settings that change an adapter's output in a way that is not supported here: those of LoRA."""
        return LoraFormat().unsupported(settings)

    def settings(self, files: AdapterFiles) -> dict[str, Any]:
        """Raises InputError: what is left of a budget cannot be given out again."""
        what = "method.after cannot continue this adapter: the triplets that its training removed are lost"
        remedy = "merge it, and train on the merged model: reflora merge RUN"
        raise InputError(Problem(what, f"method.after: {files.directory}", self.peft_type, remedy=remedy))

    def entries(self, adapted: Adapted, method: Method) -> dict[str, Any]:
        """Return what the config of an AdaLoRA says beside the common part."""
        assert isinstance(method.layer, AdaLoRALayer)
        return {
            "init_r": method.rank,
            "target_r": method.layer.target(method.rank),
            "lora_alpha": method.alpha,
            "lora_dropout": method.dropout,
            "beta1": method.layer.beta1,
            "beta2": method.layer.beta2,
            "deltaT": method.layer.interval,
            "orth_reg_weight": method.layer.penalty,
            "tinit": 0,
            "tfinal": 0,
            "total_step": 1,
            "rank_pattern": None,
            "fan_in_fan_out": has_transposed(adapted),
            "init_lora_weights": True,
        }

    def condensed(
        self, config: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
        """Return both without the triplets whose E is zero."""
        kept = {key.removesuffix(FILE_E): own[:, 0] != 0 for key, own in tensors.items() if key.endswith(f".{FILE_E}")}
        if all(mask.all() for mask in kept.values()):
            return config, tensors
        cut = dict(tensors)
        for path, mask in kept.items():
            cut |= {f"{path}{part}": tensors[f"{path}{part}"][mask] for part in (FILE_A, FILE_E)}
            cut[f"{path}{FILE_B}"] = tensors[f"{path}{FILE_B}"][:, mask].contiguous()
        pattern = {f"{path.removeprefix(PREFIX)}{FILE_E}": mask.tolist() for path, mask in kept.items()}
        return {**config, "rank_pattern": pattern}, cut

    def maker(self, files: AdapterFiles, weights: Mapping[str, FrozenWeight]) -> Callable[[str, Parts], AdaLoRALinear]:
        """Return the function that makes the layer of a module from its tensors, which raises InputError for tensors
        that do not fit.
        """
        config = files.config
        assert isinstance(config, AdaloraConfig)
        scale = scale_for(config.lora_alpha, config.init_r)

        def make(name: str, tensors: Parts) -> AdaLoRALinear:
            frozen, rank = weights[name], config.rank_of(name)
            shapes: dict[str, tuple[int, ...]] = {
                FILE_A: (rank, frozen.in_features), FILE_E: (rank, 1), FILE_B: (frozen.out_features, rank)
            }  # fmt: skip
            check_shapes(files.weights, name, shapes, tensors)
            A, E, B = (tensors[part] for part in (FILE_A, FILE_E, FILE_B))
            check_size(files.weights, name, abs(scale) * rank * largest(A) * largest(E) * largest(B))
            return AdaLoRALinear(frozen, (A, E, B), scale, config.lora_dropout)

        return make
