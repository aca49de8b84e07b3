"""Read rotary positions from a model's config, write them, and refuse those that llama.cpp computes differently."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reflora_cli.export.gguf_architectures import RopeKind
from reflora_cli.ground.errors import InputError, Problem

REMEDY = "merge it instead, which keeps the config: reflora export RUN --format safetensors"


@dataclass(frozen=True)
class Rope:
    """Rotary positions. original: the number of positions in pretraining. width: how much of a head rotates.

    low, high: the numbers of rotations between which `llama3` interpolates. short, long: the divisors of `longrope`'s
    frequencies for texts of at most `original` tokens, and for longer ones. attention: what it multiplies rotated
    queries and keys by.
    """

    kind: RopeKind
    theta: float
    width: int
    factor: float = 1.0
    original: int = 0
    low: float = 1.0
    high: float = 4.0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()
    attention: float = 1.0

    def divisors(self) -> NDArray[np.float32] | None:
        """Return the divisors of Llama 3's frequencies in llama.cpp, [width / 2]; None for other kinds.

        Long wavelengths are divided by `factor`, short ones are left, those between are interpolated.
        """
        if self.kind != "llama3":
            return None
        frequencies = self.theta ** (-np.arange(0, self.width, 2, dtype=np.float64) / self.width)
        rotations = self.original * frequencies / (2 * np.pi)
        smooth = np.clip((rotations - self.low) / (self.high - self.low), 0, 1)
        divisors: NDArray[np.float32] = (1 / ((1 - smooth) / self.factor + smooth)).astype(np.float32)
        return divisors

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return the file's tensors of divisors, [width / 2] each, by llama.cpp's names."""
        divisors = self.divisors()
        if divisors is not None:
            return {"rope_freqs.weight": divisors}
        factors = {"rope_factors_long.weight": self.long, "rope_factors_short.weight": self.short}
        return {name: np.array(values, dtype=np.float32) for name, values in factors.items() if values}


def unlike(what: str, where: str, found: object, expected: str, remedy: str = REMEDY) -> InputError:
    """Return the refusal of a config that llama.cpp would compute differently."""
    what = f"llama.cpp computes this architecture differently: {what}"
    return InputError(Problem(what, f"the model's config.json, {where}", str(found), expected, remedy))


def head_width(config: Any) -> int:
    """Return the width of an attention head."""
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return width


def rope_of(config: Any) -> Rope:
    """Return the rotary positions of a config, those of layers without a window if the others have other ones.

    Raises InputError for those that llama.cpp computes differently.
    """
    settings = getattr(config, "rope_parameters", None) or {}
    if set(settings) == {"full_attention", "sliding_attention"}:
        refuse_other_local(settings["sliding_attention"])
        settings = settings["full_attention"]
    if any(isinstance(value, dict) for value in settings.values()):
        raise unlike("it rotates all layers alike", "rope_parameters", settings, "one set of them")
    kind, theta = settings.get("rope_type", "default"), float(settings.get("rope_theta", 10000.0))
    width = int(head_width(config) * (settings.get("partial_rotary_factor") or 1.0))
    original = settings.get("original_max_position_embeddings") or config.max_position_embeddings
    match kind:
        case "default":
            return Rope("default", theta, width)
        case "linear":
            return Rope("linear", theta, width, float(settings["factor"]))
        case "llama3":
            low, high = float(settings["low_freq_factor"]), float(settings["high_freq_factor"])
            return Rope("llama3", theta, width, float(settings["factor"]), original, low, high)
        case "yarn":
            factor = float(settings.get("factor") or config.max_position_embeddings / original)
            refuse_other_yarn(settings, factor)
            return Rope("yarn", theta, width, factor, original)
        case "longrope":
            return longrope(settings, theta, width, config.max_position_embeddings / original)
    raise unlike(
        "it does not know this scaling of rotary positions", "rope_parameters", kind, "default, linear, llama3 or yarn"
    )


def refuse_other_local(settings: dict[str, Any]) -> None:
    """Raises InputError for rotary positions of layers with a window that are not those that llama.cpp has built in."""
    theta = settings.get("rope_theta", 10000.0)
    if settings.get("rope_type", "default") != "default" or theta != 10000.0:
        where = "rope_parameters.sliding_attention"
        raise unlike("it has one base of frequencies in layers with a window", where, settings, "default, 10000")


def longrope(settings: dict[str, Any], theta: float, width: int, stretch: float) -> Rope:
    """Return LongRoPE's positions. stretch: how much longer the context is than in pretraining."""
    original = settings["original_max_position_embeddings"]
    factor = settings.get("factor") or stretch
    usual = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    attention = settings.get("attention_factor")
    short, long = (tuple(map(float, settings[f"{name}_factor"])) for name in ("short", "long"))
    kept = usual if attention is None else float(attention)
    return Rope("longrope", theta, width, original=original, short=short, long=long, attention=kept)


def refuse_other_yarn(settings: dict[str, Any], factor: float) -> None:
    """Raises InputError for YaRN with settings other than those of its paper, which llama.cpp has built in."""
    usual = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    attention, scale, all_scale = (settings.get(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    if attention is not None and not math.isclose(attention, usual, rel_tol=1e-6):
        raise unlike(
            "it always uses YaRN's own attention factor", "rope_parameters.attention_factor", attention, f"{usual:.4f}"
        )
    if attention is None and scale and all_scale:
        raise unlike("it always uses YaRN's own attention factor", "rope_parameters.mscale", scale, "none")
    for name, expected in (("beta_fast", 32), ("beta_slow", 1), ("truncate", True)):
        if settings.get(name) not in (None, expected):
            raise unlike("it always uses YaRN's own borders", f"rope_parameters.{name}", settings[name], str(expected))


def write_rope(writer: Any, rope: Rope) -> None:
    """Write the rotary positions, without their tensors."""
    import gguf

    writer.add_rope_dimension_count(rope.width)
    writer.add_rope_freq_base(rope.theta)
    if rope.kind in ("linear", "yarn", "longrope"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope.kind))
    if rope.kind in ("linear", "yarn"):
        writer.add_rope_scaling_factor(rope.factor)
    if rope.kind in ("yarn", "longrope"):
        writer.add_rope_scaling_orig_ctx_len(rope.original)
    if rope.kind == "longrope":
        writer.add_rope_scaling_attn_factors(rope.attention)
