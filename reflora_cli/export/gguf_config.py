"""Tell which fields of a model's config llama.cpp follows, and refuse a model that it would compute differently.

llama.cpp's graph of an architecture is fixed (`gguf_architectures.py`). A config is exported only if each of its fields
is written to the file, or is known to have no effect, or has the one value that the graph assumes.
"""

from __future__ import annotations

import inspect
from typing import Any

from reflora_cli.export.gguf_architectures import Architecture
from reflora_cli.export.gguf_rope import REMEDY, head_width, rope_of, unlike, write_rope

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
ACTIVATIONS = {"silu": ("silu", "swish"), "gelu": ("gelu_pytorch_tanh", "gelu_new")}
"""transformers' names of each activation."""


def key_heads(config: Any) -> int:
    """Return the number of heads of keys and values."""
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return heads


def inner_width(config: Any) -> int:
    """Return the width inside of the feed-forward network."""
    width: int = (
        getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
    )
    return width


def context_of(config: Any, architecture: Architecture) -> int:
    """Return the number of tokens that the file allows in a text."""
    length: int = config.max_position_embeddings
    window = getattr(config, "sliding_window", None) if architecture.window == "context" else None
    return min(length, window or length)


def refuse_other_graphs(config: Any, architecture: Architecture) -> None:
    """Raises InputError for a config that llama.cpp's graph of the architecture does not follow."""
    refuse_unknown(config, architecture)
    refuse_other_activation(config, architecture)
    refuse_windows(config, architecture)
    refuse_other_layers(config, architecture)
    refuse_other_heads(config, architecture)
    for name in ("attention_bias", "mlp_bias"):
        if name not in architecture.biases and getattr(config, name, False):
            raise unlike("it has no such biases", name, True, "false")
    if architecture.ropes:
        rope = rope_of(config)
        if rope.kind not in architecture.ropes:
            lacking = "no divisors of frequencies" if rope.kind == "llama3" else "no such rotary positions"
            expected = ", ".join(sorted(architecture.ropes))
            raise unlike(f"it has {lacking}", "rope_parameters", rope.kind, expected)
        head = head_width(config)
        if rope.width != head and not architecture.rotates_part:
            found = f"{rope.width} of {head}"
            raise unlike("it rotates whole heads", "rope_parameters.partial_rotary_factor", found, "1.0")


def refuse_other_activation(config: Any, architecture: Architecture) -> None:
    """Raises InputError for another activation than the graph's."""
    expected = ACTIVATIONS[architecture.activation]
    for name in ("hidden_act", "hidden_activation", "activation_function"):
        found = getattr(config, name, None)
        if found is not None and found not in expected:
            shown = {"silu": "SiLU", "gelu": "GELU by tanh"}[architecture.activation]
            raise unlike(f"it always uses the activation {shown}", name, found, expected[0])


def refuse_other_heads(config: Any, architecture: Architecture) -> None:
    """Raises InputError for heads, or a scaling of attention or a soft cap, that the graph does not have."""
    head, heads, keys = head_width(config), config.num_attention_heads, key_heads(config)
    if head % 2 or heads % keys:
        found = f"{heads} heads of {head} on {keys}"
        raise unlike(
            "it needs heads of even width that share keys evenly", "num_key_value_heads", found, "an even share"
        )
    if architecture.heads_fill_width and head * heads != config.hidden_size:
        found = f"{heads} heads of {head}"
        raise unlike(
            "it needs heads that together are as wide as the model", "head_dim", found, f"{config.hidden_size} in all"
        )
    shares = config.num_hidden_layers == architecture.shared_scale
    scalar = config.hidden_size // heads if shares else head
    if (own := getattr(config, "query_pre_attn_scalar", scalar)) != scalar:
        raise unlike("it scales attention by the width of a head", "query_pre_attn_scalar", own, f"{scalar}")
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if "attn_logit_softcapping" in architecture.fields and not getattr(config, name):
            raise unlike("it always caps logits", name, getattr(config, name), "a positive number")


def refuse_other_layers(config: Any, architecture: Architecture) -> None:
    """Raises InputError where other layers than the graph's have a window, or no positions."""
    blocks = range(config.num_hidden_layers)
    if architecture.window == "layers":
        expected = ["sliding_attention" if architecture.has_window(block) else "full_attention" for block in blocks]
        if list(config.layer_types) != expected or not config.sliding_window:
            alternate = f"it has a window in every layer but each {architecture.window_period}th"
            raise unlike(alternate, "layer_types", ", ".join(config.layer_types), ", ".join(expected))
    if architecture.unrotated_period:
        rotated = [int(architecture.rotates(block)) for block in blocks]
        if list(config.no_rope_layers)[: len(rotated)] != rotated:
            what = f"it has no positions in each {architecture.unrotated_period}th layer"
            raise unlike(what, "no_rope_layers", config.no_rope_layers, str(rotated))


def refuse_unknown(config: Any, architecture: Architecture) -> None:
    """Raises InputError for a declared field that is not known here and is not at its default.

    Fields that the class does not declare are not read by it, but for `per_layer_config`.
    """
    if getattr(config, "is_heterogeneous", False):
        raise unlike("it makes all layers alike", "per_layer_config", "layers of several kinds", "none")
    for name, parameter in inspect.signature(type(config)).parameters.items():
        value, default = getattr(config, name, parameter.default), parameter.default
        known = WRITTEN | CHECKED | IDLE | architecture.fields
        if name not in known and default is not inspect.Parameter.empty and value != default:
            raise unlike("reflora does not know this setting", name, value, f"{default}")


def refuse_windows(config: Any, architecture: Architecture) -> None:
    """Raises InputError for attention that does not reach back over the whole context, where the graph's does."""
    if architecture.window != "none":
        return
    window, length = getattr(config, "sliding_window", None), config.max_position_embeddings
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    if kinds:
        raise unlike(
            "all of its layers attend to everything", "layer_types", ", ".join(sorted(kinds)), "full_attention"
        )
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    if slides and window is not None and window < length:
        alike = f"on texts of up to {window:,} tokens llama.cpp computes that alike, by its own convert_hf_to_gguf.py"
        remedy = f"{REMEDY}; {alike}"
        raise unlike("it has no window of attention", "sliding_window", window, f"null, or {length:,} or more", remedy)


def write_shape(writer: Any, config: Any, architecture: Architecture) -> None:
    """Write the numbers that define the model, under llama.cpp's keys."""
    writer.add_context_length(context_of(config, architecture))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(inner_width(config))
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(key_heads(config))
    writer.add_key_length(head_width(config))
    writer.add_value_length(head_width(config))
    writer.add_vocab_size(config.vocab_size)
    if (epsilon := getattr(config, "rms_norm_eps", None)) is not None:
        writer.add_layer_norm_rms_eps(epsilon)
    else:
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    if cap := getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(cap)
    if cap := getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(cap)
    if architecture.window != "none":
        writer.add_sliding_window(config.sliding_window if architecture.window == "layers" else 0)
    if architecture.ropes:
        write_rope(writer, rope_of(config))


def graph_notes(config: Any, architecture: Architecture) -> tuple[str, ...]:
    """Return what llama.cpp computes differently in texts that users can avoid."""
    notes = []
    if (context := context_of(config, architecture)) < config.max_position_embeddings:
        notes.append(
            f"the model's attention reaches back over {context:,} tokens, llama.cpp's over all: the two are alike in "
            f"texts of up to {context:,} tokens, which is the context that the file allows"
        )
    if architecture.ropes and (rope := rope_of(config)).kind == "longrope":
        notes.append(
            f"transformers rotates by the long factors in texts of more than {rope.original:,} tokens, llama.cpp "
            f"whenever its context is longer: give it a context of {rope.original:,} for shorter texts (-c, num_ctx)"
        )
    return tuple(notes)
