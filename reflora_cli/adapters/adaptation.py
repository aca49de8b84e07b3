"""Adapt any torch model in one call, without a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.inject import inject
from reflora_cli.adapters.layer import Adapter
from reflora_cli.adapters.start import start as start_factors
from reflora_cli.ground.errors import InputError, Problem, check_argument, nearest
from reflora_cli.methods.axes import Scaling
from reflora_cli.methods.layers import LAYERS, LayerChoice, LayerKind
from reflora_cli.methods.starts import STARTS, StartChoice, StartKind

ALL_LINEAR: Literal["all-linear"] = "all-linear"
NEEDED: Mapping[str, tuple[str | float, str]] = {
    "start": ("default", "pairs"),
    "scaling": ("standard", "pairs"),
    "dropout": (0.0, "dropout"),
}
"""The value of a setting that changes nothing, and what a layer has with which another one means something."""


@dataclass(frozen=True)
class LowRank:
    """How modules are adapted; what each field means is said by `adapt`. Raises InputError for values out of range."""

    targets: tuple[str, ...] | Literal["all-linear"]
    layer: LayerChoice
    start: StartChoice
    rank: int
    alpha: float
    scaling: Scaling
    dropout: float
    needs_full_rank: bool = False

    def __post_init__(self) -> None:
        for key, (usual, what) in NEEDED.items():
            value = getattr(self, key)
            is_meant = self.layer.counts(key) or value == usual or str(value) == usual
            check_argument(is_meant, key, str(value), f"the default: layer {self.layer} has no {what}")
        check_argument(self.rank >= 1, "rank", self.rank, "at least 1")
        multiple = self.start.rank_multiple
        check_argument(self.rank % multiple == 0, "rank", self.rank, f"a multiple of {multiple} for start {self.start}")
        check_argument(0 < self.alpha < float("inf"), "alpha", self.alpha, "a number above 0")
        check_argument(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")
        check_argument(len(self.targets) > 0, "targets", self.targets, "names of modules, or all-linear")


def adapt(
    model: nn.Module,
    targets: str | Sequence[str] = ALL_LINEAR,
    *,
    rank: int = 8,
    alpha: float = 8.0,
    layer: LayerKind = "lora",
    start: StartKind = "default",
    scaling: Literal["standard", "rslora"] = "standard",
    dropout: float = 0.0,
    trainable: Sequence[str] = (),
    seed: int = 0,
) -> Adapted:
    """Put adapters into `model`, in place, and freeze everything but them and the `trainable` modules.

    Each adapted weight W [out, in] gets A [r, in] and B [out, r] in float32, on W's device; B starts at zero, or what
    it adds is taken out of W, so that the model computes what it did. With `vera` it gets two vectors around random
    matrices that all share.

    Returns what was adapted: `layers` by name, `pairs`, trained `parameters`.

    targets: trailing parts of module paths (`q_proj`, `attention.output.dense`), regular expressions for whole paths,
        or `all-linear`: every linear layer but the output embedding of a transformers model.
    rank: r.  alpha: the update is s B A with s = alpha / r, or alpha / sqrt(r) where `scaling` is `rslora`.
    layer: `lora` (Hu et al. 2021, arXiv 2106.09685), `dora` (Liu et al. 2024, arXiv 2402.09353) or `vera` (Kopiczko et
        al. 2023, arXiv 2310.11454), which takes neither alpha nor another start or scaling, and ranks like 256; or
        `bias` or `full`, which train the model's own biases or parameters inside of the targets, without factors; or
        `houlsby` or `pfeiffer`, bottlenecks of r numbers, whose targets are places in every block unless they are
        named; or `prompt` or `prefix`, 20 virtual tokens before every row, which take neither rank nor targets; or
        `stella` (Li et al. 2025, arXiv 2510.01938), whose frames the optimizer keeps orthonormal with
        `RefLoRA(model, update="stiefel")`, and which takes no other start.
    start: how A starts: uniform as in PEFT, or normal with deviation 1 / r. `pissa` takes the r largest singular
        triplets out of W and trains them (Meng et al. 2024, arXiv 2404.02948): B is not zero then.
    dropout: of the adapter's input, in training.
    trainable: paths of modules that are trained whole, in float32: heads. They are not adapted.
    seed: from this and its name each module draws its A.

    Raises InputError when a pattern matches nothing, for a model that is adapted already, and for values out of range.
    """
    first = STARTS[known(start, STARTS, "start")]()
    check_argument(not first.sees_data, "start", repr(start), "a start that needs no training rows")
    patterns = (targets,) if isinstance(targets, str) else tuple(targets)
    choices = LowRank(
        ALL_LINEAR if patterns == (ALL_LINEAR,) else patterns,
        LAYERS[known(layer, LAYERS, "layer")](),
        first,
        rank,
        alpha,
        Scaling(known(scaling, Scaling, "scaling")),
        dropout,
        first.needs_full_rank or LAYERS[layer].needs_full_rank,
    )
    adapted = [name for name, module in model.named_modules() if isinstance(module, Adapter)]
    check_argument(not adapted, "model", ", ".join(adapted[:3]), "a model without adapters")
    modules = [name for name, _ in model.named_modules()]
    for name in trainable:
        known(name, modules, "trainable")
    result = inject(model, choices, trainable, trainable)
    start_factors(result, choices.start, seed)
    return result


def known(name: str, names: Iterable[str], where: str) -> str:
    """Return the name itself. Raises InputError unless it is among the names."""
    names = [str(own) for own in names]
    if name not in names:
        raise InputError(Problem("there is nothing with this name", where, repr(name), remedy=nearest(name, names)))
    return name
