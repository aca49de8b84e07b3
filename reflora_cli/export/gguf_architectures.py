"""Records of the architectures that are exported to GGUF: in what llama.cpp's graphs differ from each other.

The common graph is a stack of blocks, attention and then a gated network, each behind a root mean square norm, with
rotary positions (src/models/llama.cpp). A record says what else its own graph does (src/models/NAME.cpp). What a
file's tensors and numbers show by themselves is not in it: biases, norms of heads or behind a layer, fused matrices,
learned positions, soft caps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RopeKind = Literal["default", "linear", "llama3", "yarn", "longrope"]
PLAIN_ROPES: frozenset[RopeKind] = frozenset({"default", "linear"})


@dataclass(frozen=True)
class Architecture:
    """One of llama.cpp's architectures. name: its name there, in capitals that of the gguf package's table of names.

    fields: fields of transformers' config that are written or checked, beside those that all configs have.
    activation: of the gate; `gelu` is the approximation by tanh. ropes: kinds of rotary positions, none for learned
    ones. rotates_pairs: a head's neighbouring rows rotate together, and not its two halves. rotates_part: the end of a
    head may be left as it is. unrotated_period: every layer at a multiple of it has no positions.

    biases: fields of the config that may be true. heads_fill_width: the heads together are as wide as the model.
    window: `none`, or `context` if the file's context ends where the model's window does, or `layers` if all layers
    but those at multiples of window_period have one. window_base: the base of their frequencies, None for that of the
    other layers.

    scales_embedding: the embedding is multiplied by the root of its width. raises_norms: the factor of a norm is one
    more than transformers' weight. shared_scale: the number of blocks of the model whose attention is scaled by the
    width of the model over its number of heads. transposed: modules whose matrices transformers keeps [in, out].
    """

    name: str
    fields: frozenset[str] = frozenset()
    activation: Literal["silu", "gelu"] = "silu"
    ropes: frozenset[RopeKind] = PLAIN_ROPES | {"yarn"}
    rotates_pairs: bool = False
    rotates_part: bool = False
    unrotated_period: int = 0
    biases: frozenset[str] = frozenset()
    heads_fill_width: bool = False
    window: Literal["none", "context", "layers"] = "none"
    window_period: int = 0
    window_base: float | None = None
    scales_embedding: bool = False
    raises_norms: bool = False
    shared_scale: int = 0
    transposed: frozenset[str] = frozenset()

    def has_window(self, layer: int) -> bool:
        """Whether a layer's attention reaches back over a window only."""
        return self.window == "layers" and (layer + 1) % self.window_period != 0

    def rotates(self, layer: int) -> bool:
        """Whether a layer rotates its queries and keys."""
        return bool(self.ropes) and not (self.unrotated_period and (layer + 1) % self.unrotated_period == 0)


LLAMA = Architecture(
    "llama",
    ropes=PLAIN_ROPES | {"llama3", "yarn"},
    rotates_pairs=True,
    biases=frozenset({"attention_bias", "mlp_bias"}),
)
GEMMA_FIELDS = frozenset({"hidden_activation", "query_pre_attn_scalar", "final_logit_softcapping"})
ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA,
    "Qwen2ForCausalLM": Architecture("qwen2", heads_fill_width=True),
    "Qwen3ForCausalLM": Architecture("qwen3"),
    "SmolLM3ForCausalLM": Architecture(
        "smollm3",
        fields=frozenset({"no_rope_layers", "no_rope_layer_interval"}),
        rotates_pairs=True,
        unrotated_period=4,
    ),
    "Phi3ForCausalLM": Architecture(
        "phi3",
        fields=frozenset({"resid_pdrop", "embd_pdrop", "original_max_position_embeddings"}),
        ropes=frozenset({"default", "longrope"}),
        rotates_part=True,
        heads_fill_width=True,
        window="context",
    ),
    "GemmaForCausalLM": Architecture(
        "gemma",
        fields=frozenset({"hidden_activation"}),
        activation="gelu",
        ropes=PLAIN_ROPES,
        scales_embedding=True,
        raises_norms=True,
    ),
    "Gemma2ForCausalLM": Architecture(
        "gemma2",
        fields=GEMMA_FIELDS | {"attn_logit_softcapping"},
        activation="gelu",
        ropes=PLAIN_ROPES,
        window="layers",
        window_period=2,
        scales_embedding=True,
        raises_norms=True,
        shared_scale=46,
    ),
    "Gemma3ForCausalLM": Architecture(
        "gemma3",
        fields=GEMMA_FIELDS,
        activation="gelu",
        ropes=PLAIN_ROPES,
        window="layers",
        window_period=6,
        window_base=10000.0,
        scales_embedding=True,
        raises_norms=True,
        shared_scale=62,
    ),
    "GPT2LMHeadModel": Architecture(
        "gpt2",
        fields=frozenset(
            {"n_positions", "n_embd", "n_layer", "n_head", "n_inner", "activation_function", "layer_norm_epsilon",
             "resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_type", "summary_use_proj", "summary_activation",
             "summary_proj_to_labels", "summary_first_dropout", "reorder_and_upcast_attn"}
        ),
        activation="gelu",
        ropes=frozenset(),
        heads_fill_width=True,
        transposed=frozenset({"c_attn", "c_proj", "c_fc"}),
    ),
}  # fmt: skip
"""The architecture of each of transformers' classes; llama.cpp runs Mistral as a Llama."""
BY_NAME: Mapping[str, Architecture] = {one.name: one for one in ARCHITECTURES.values()}
