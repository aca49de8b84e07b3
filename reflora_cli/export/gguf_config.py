"""Tell which fields of a model's config llama.cpp follows, and refuse a model that it would compute differently.

llama.cpp's graph of an architecture is fixed: SiLU, attention over all earlier tokens, rotary positions over whole
heads (src/models/llama.cpp, qwen2.cpp). A config is exported only if each of its fields is written to the file, or is
known to have no effect, or has the one value that the graph assumes.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reflora_cli.ground.errors import InputError, Problem

WRITTEN = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "rms_norm_eps", "head_dim", "rope_parameters", "tie_word_embeddings",
}  # fmt: skip
CHECKED = {
    "hidden_act", "sliding_window", "use_sliding_window", "max_window_layers", "layer_types", "attention_bias",
    "mlp_bias",
}  # fmt: skip
"""Fields with a rule of their own below. Biases are tensors, written if there are any."""
IDLE = {
    "initializer_range", "use_cache", "pretraining_tp", "attention_dropout", "bos_token_id", "eos_token_id",
    "pad_token_id", "transformers_version", "architectures", "output_hidden_states", "return_dict", "dtype", "id2label",
    "label2id", "problem_type", "chunk_size_feed_forward",
}  # fmt: skip
"""Fields without an effect on what these classes compute from token ids."""
REMEDY = "merge it instead, which keeps the config: reflora export RUN --format safetensors"


@dataclass(frozen=True)
class Rope:
    """Rotary positions. kind: `default`, `linear`, `llama3` or `yarn`. original: the number of positions in
    pretraining.

    low, high: the numbers of rotations between which `llama3` interpolates.
    """

    kind: Literal["default", "linear", "llama3", "yarn"]
    theta: float
    head: int
    factor: float = 1.0
    original: int = 0
    low: float = 1.0
    high: float = 4.0

    def divisors(self) -> NDArray[np.float32] | None:
        """Return the divisors of Llama 3's frequencies in llama.cpp, [head / 2]; None for other kinds.

        Long wavelengths are divided by `factor`, short ones are left, those between are interpolated.
        """
        if self.kind != "llama3":
            return None
        frequencies = self.theta ** (-np.arange(0, self.head, 2, dtype=np.float64) / self.head)
        rotations = self.original * frequencies / (2 * np.pi)
        smooth = np.clip((rotations - self.low) / (self.high - self.low), 0, 1)
        divisors: NDArray[np.float32] = (1 / ((1 - smooth) / self.factor + smooth)).astype(np.float32)
        return divisors


def head_width(config: Any) -> int:
    """Return the width of an attention head."""
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return width


def unlike(what: str, where: str, found: object, expected: str, remedy: str = REMEDY) -> InputError:
    """Return the refusal of a config that llama.cpp would compute differently."""
    what = f"llama.cpp computes this architecture differently: {what}"
    return InputError(Problem(what, f"the model's config.json, {where}", str(found), expected, remedy))


def refuse_other_graphs(config: Any, architecture: str) -> None:
    """Raises InputError for a config that llama.cpp's graph of the architecture does not follow."""
    refuse_unknown(config)
    if config.hidden_act not in ("silu", "swish"):
        raise unlike("its activation is always SiLU", "hidden_act", config.hidden_act, "silu")
    refuse_windows(config)
    head = head_width(config)
    if head % 2 or config.num_attention_heads % config.num_key_value_heads:
        found = f"{config.num_attention_heads} heads of {head} on {config.num_key_value_heads}"
        raise unlike("heads rotate in pairs and share keys evenly", "num_key_value_heads", found, "an even share")
    if architecture == "qwen2" and head * config.num_attention_heads != config.hidden_size:
        found = f"{config.num_attention_heads} heads of {head}"
        raise unlike("its heads are as wide as the model", "head_dim", found, f"{config.hidden_size} in all")
    rope = rope_of(config)
    if architecture == "qwen2" and rope.kind == "llama3":
        raise unlike("it has no divisors of frequencies", "rope_parameters", rope.kind, "default, linear or yarn")


def refuse_unknown(config: Any) -> None:
    """Raises InputError for a declared field that is not known here and is not at its default.

    Fields that the class does not declare are not read by it, but for `per_layer_config`.
    """
    if getattr(config, "is_heterogeneous", False):
        raise unlike("its layers are all alike", "per_layer_config", "layers of several kinds", "none")
    for name, parameter in inspect.signature(type(config)).parameters.items():
        value, default = getattr(config, name, parameter.default), parameter.default
        if name not in WRITTEN | CHECKED | IDLE and default is not inspect.Parameter.empty and value != default:
            raise unlike("a setting that is not known here", name, value, f"{default}")


def refuse_windows(config: Any) -> None:
    """Raises InputError for attention that does not reach back over the whole context."""
    window, length = getattr(config, "sliding_window", None), config.max_position_embeddings
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if kinds:
        raise unlike("its layers attend to everything", "layer_types", ", ".join(sorted(kinds)), "full_attention")
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    if slides and window is not None and window < length:
        alike = f"on texts of up to {window:,} tokens llama.cpp computes that alike, by its own convert_hf_to_gguf.py"
        remedy = f"{REMEDY}; {alike}"
        raise unlike("its attention has no window", "sliding_window", window, f"null, or {length:,} or more", remedy)


def rope_of(config: Any) -> Rope:
    """Return the rotary positions of a config. Raises InputError for those that llama.cpp computes differently."""
    settings = getattr(config, "rope_parameters", None) or {}
    kind, head, theta = settings.get("rope_type", "default"), head_width(config), settings.get("rope_theta", 10000.0)
    if any(isinstance(value, dict) for value in settings.values()):
        raise unlike("its layers rotate alike", "rope_parameters", settings, "one set of them")
    if settings.get("partial_rotary_factor", 1.0) not in (None, 1.0):
        found = settings["partial_rotary_factor"]
        raise unlike("it rotates whole heads", "rope_parameters.partial_rotary_factor", found, "1.0")
    if kind == "default":
        return Rope("default", float(theta), head)
    if kind == "linear":
        return Rope("linear", float(theta), head, float(settings["factor"]))
    original = settings.get("original_max_position_embeddings") or config.max_position_embeddings
    if kind == "llama3":
        low, high = float(settings["low_freq_factor"]), float(settings["high_freq_factor"])
        return Rope("llama3", float(theta), head, float(settings["factor"]), original, low, high)
    if kind == "yarn":
        factor = float(settings.get("factor") or config.max_position_embeddings / original)
        refuse_other_yarn(settings, factor)
        return Rope("yarn", float(theta), head, factor, original)
    raise unlike("this scaling of rotary positions", "rope_parameters", kind, "default, linear, llama3 or yarn")


def refuse_other_yarn(settings: dict[str, Any], factor: float) -> None:
    """Raises InputError for YaRN with settings other than those of its paper, which llama.cpp has built in."""
    usual = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    attention, scale, all_scale = (settings.get(name) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    if attention is not None and not math.isclose(attention, usual, rel_tol=1e-6):
        raise unlike("YaRN's own attention factor", "rope_parameters.attention_factor", attention, f"{usual:.4f}")
    if attention is None and scale and all_scale:
        raise unlike("YaRN's own attention factor", "rope_parameters.mscale", scale, "none")
    for name, expected in (("beta_fast", 32), ("beta_slow", 1), ("truncate", True)):
        if settings.get(name) not in (None, expected):
            raise unlike("YaRN's own borders", f"rope_parameters.{name}", settings[name], str(expected))


def write_shape(writer: Any, config: Any) -> None:
    """Write the numbers that define the model, under llama.cpp's keys."""
    import gguf

    rope = rope_of(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(rope.head)
    writer.add_rope_freq_base(rope.theta)
    writer.add_key_length(rope.head)
    writer.add_value_length(rope.head)
    writer.add_vocab_size(config.vocab_size)
    if rope.kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope.kind))
        writer.add_rope_scaling_factor(rope.factor)
    if rope.kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope.original)
