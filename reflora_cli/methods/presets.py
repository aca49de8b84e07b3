"""Named methods: which choices and numbers each of them stands for, and who proposed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reflora_cli.methods.axes import Scaling


@dataclass(frozen=True)
class Preset:
    """A named method. settings: the fields of a method that it fills in, choices in their short form."""

    settings: Mapping[str, Any]
    source: str


PRESETS: dict[str, Preset] = {
    "lora": Preset({}, "Hu et al. 2021, arXiv 2106.09685"),
    "rslora": Preset({"scaling": Scaling.RSLORA}, "Kalajdzievski 2023, arXiv 2312.03732"),
    # B learns faster than A.
    "lora+": Preset({"lr_ratio": 16.0}, "Hayou et al. 2024, arXiv 2402.12354"),
    "dora": Preset({"layer": "dora"}, "Liu et al. 2024, arXiv 2402.09353"),
    "reflora": Preset({"update": "reflora"}, "Zhang, Li, Giannakis 2025, arXiv 2505.18877"),
    # The scalar variant.
    "reflora-s": Preset({"update": "reflora-s"}, "Zhang, Li, Giannakis 2025, arXiv 2505.18877"),
    # Inverse Gram matrices.
    "scaled-gd": Preset(
        {"update": "scaled-gd"}, "Tong, Ma, Chi 2020, arXiv 2005.08898; Zhang, Pilanci 2024, arXiv 2402.02347"
    ),
    # An optimizer of its own.
    "lora-rite": Preset({"update": "lora-rite"}, "Yen et al. 2024, arXiv 2410.20625"),
    # Two vectors around random matrices that all layers share.
    "vera": Preset({"layer": "vera"}, "Kopiczko, Blankevoort, Asano 2023, arXiv 2310.11454"),
    # The strongest part of W is trained, and the rest of it is frozen.
    "pissa": Preset({"start": "pissa"}, "Meng et al. 2024, arXiv 2404.02948"),
    # The base's own parameters: its biases, or all of them.
    "bitfit": Preset({"layer": "bias"}, "Ben-Zaken et al. 2021, arXiv 2106.10199"),
    "full": Preset({"layer": "full"}, "Devlin et al. 2018, arXiv 1810.04805"),
    # A start that looks at training rows.
    "eva": Preset({"start": "eva"}, "Paischer et al. 2024, arXiv 2410.07170"),
    # Balanced after every step.
    "balanced": Preset({"update": "balanced"}, "Castin et al. 2026, arXiv 2605.31484"),
    # Closest to the step of the weight.
    "lora-pro": Preset({"update": "lora-pro"}, "Wang et al. 2024, arXiv 2407.18242"),
    # A bottleneck of two matrices in every block, twice or once.
    "houlsby": Preset({"layer": "houlsby"}, "Houlsby et al. 2019, arXiv 1902.00751"),
    "pfeiffer": Preset({"layer": "pfeiffer"}, "Pfeiffer et al. 2020, arXiv 2005.00247"),
    # Virtual tokens before every row: their embeddings, or their keys and values.
    "prompt": Preset({"layer": "prompt"}, "Lester, Al-Rfou, Constant 2021, arXiv 2104.08691"),
    "prefix": Preset({"layer": "prefix"}, "Li, Liang 2021, arXiv 2101.00190"),
    # Triplets, the least important of which are given up.
    "adalora": Preset({"layer": "adalora"}, "Zhang et al. 2023, arXiv 2303.10512"),
    # A vector for every module.
    "ia3": Preset({"layer": "ia3"}, "Liu et al. 2022, arXiv 2205.05638"),
    # A small square matrix between singular vectors of W.
    "lora-xs": Preset({"layer": "lora-xs"}, "Banaei et al. 2024, arXiv 2405.17604"),
    # Only B is trained.
    "lora-fa": Preset({"update": "lora-fa"}, "Zhang et al. 2023, arXiv 2308.03303"),
    # The weakest part of W is trained, and the rest of it is frozen.
    "milora": Preset({"start": "milora"}, "Wang et al. 2024, arXiv 2406.09044"),
    # B has orthonormal columns, and s B A is taken out of W.
    "olora": Preset({"start": "olora"}, "Buyukakyuz 2024, arXiv 2406.01775"),
    # Neither A nor B is zero, and B A is. There is no paper.
    "orthogonal": Preset({"start": "orthogonal"}, "datta0.github.io/posts/rethink-lora-init, 2024"),
    # The pair makes up for the error of a quantized base.
    "loftq": Preset({"start": "loftq"}, "Li et al. 2023, arXiv 2310.08659"),
    # The same, with the pair first, and as long as the error falls.
    "lq-lora": Preset({"start": "lq-lora"}, "Guo et al. 2023, arXiv 2311.12023"),
    # Inverse Gram matrices with the damping of the paper on LoRA.
    "preclora": Preset({"update": "preclora"}, "Zhang, Pilanci 2024, arXiv 2402.02347"),
    # A start from a sketch of W.
    "nora": Preset({"start": "nora"}, "Li et al. 2024, arXiv 2410.18965"),
    # The same with the steps that its paper has for it.
    "nora+": Preset({"start": "nora", "update": "normalized-scaled-gd"}, "Li et al. 2024, arXiv 2410.18965"),
    # One factor at a time.
    "altlora": Preset({"update": "altlora"}, "Yu et al. 2025, arXiv 2505.12455"),
    "altlora+": Preset({"update": {"kind": "altlora", "moments": "both"}}, "Yu et al. 2025, arXiv 2505.12455"),
    # Orthonormal frames of inputs and outputs with a matrix between them.
    "stella": Preset({"layer": "stella", "update": "stiefel"}, "Li et al. 2025, arXiv 2510.01938"),
    # What training rows use most of W, or least, is trained.
    "corda": Preset({"start": "corda"}, "Yang et al. 2024, arXiv 2406.05223"),
    # The first step is nearest to that of W.
    "lora-ga": Preset({"start": "lora-ga", "scaling": Scaling.RSLORA}, "Wang et al. 2024, arXiv 2407.05000"),
    # A first step of W is taken, and inverse Gram matrices follow.
    "lora-one": Preset(
        {"start": "lora-one", "update": {"kind": "scaled-gd", "warmup_steps": 0}, "scaling": Scaling.RSLORA},
        "Zhang, Liu, Chen 2025, arXiv 2502.01235",
    ),
}
PLAIN = "lora"
"""The preset that fills in nothing."""
DEFAULT = "reflora"
"""The preset of a recipe that names none."""
