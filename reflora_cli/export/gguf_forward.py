"""Compute what llama.cpp computes with a GGUF file, from the file alone, in float32.

The file's metadata and tensors are read under llama.cpp's names, one layer at a time, and nothing of transformers is
used: what the file does not say, llama.cpp does not know, but for its graph of the architecture (src/models, of which
`gguf_architectures.py` has the differences; the rotation is ggml's, ggml/src/ggml-cpu/ops.cpp).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reflora_cli.export.gguf_architectures import BY_NAME
from reflora_cli.ground.errors import Problem, VerificationError

BETA_FAST, BETA_SLOW = 32.0, 1.0
"""Rotations in the original context above which YaRN leaves a frequency, and below which it divides it."""


class GgufModel:
    """A file as llama.cpp reads it."""

    def __init__(self, path: Path) -> None:
        import gguf

        reader = gguf.GGUFReader(path)
        self.path = path
        self.fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.read: set[str] = set()
        self.graph = BY_NAME[self.fields["general.architecture"].contents()]

    def number(self, name: str, missing: Any = None) -> Any:
        """Return one of the architecture's numbers."""
        key = f"{self.graph.name}.{name}"
        return self.fields[key].contents() if key in self.fields else missing

    def tensor(self, name: str) -> Tensor:
        """Return a tensor in float32, in rows."""
        import gguf

        self.read.add(name)
        stored = self.tensors[name]
        shape = tuple(reversed([int(size) for size in stored.shape]))
        return torch.from_numpy(np.array(gguf.quants.dequantize(stored.data, stored.tensor_type)).reshape(shape))

    def linear(self, x: Tensor, name: str) -> Tensor:
        """Return W x, with a bias if there is one. x: [length, in]."""
        y = x @ self.tensor(f"{name}.weight").T
        return y + self.tensor(f"{name}.bias") if f"{name}.bias" in self.tensors else y

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Return the norm of x [..., width]: by the root mean square, or with a mean and a bias."""
        weight, epsilon = self.tensor(f"{name}.weight"), self.number("attention.layer_norm_epsilon")
        if epsilon is not None:
            bias = self.tensor(f"{name}.bias")
            return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, epsilon)
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.number("attention.layer_norm_rms_epsilon"))
        return x * scale * weight

    def norm_if_any(self, x: Tensor, name: str) -> Tensor:
        """Return the norm of x, or x where the file has no such norm."""
        return self.norm(x, name) if f"{name}.weight" in self.tensors else x

    @torch.no_grad()
    def logits(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Return logits [length, vocabulary] of token ids at positions, both [length].

        Raises VerificationError for a tensor that llama.cpp does not read.
        """
        self.read.clear()
        x = self.tensor("token_embd.weight")[ids]
        if self.graph.scales_embedding:
            x = x * math.sqrt(x.shape[-1])
        if not self.graph.ropes:
            x = x + self.tensor("position_embd.weight")[positions]
        for index in range(self.number("block_count")):
            block = f"blk.{index}"
            mixed = self.attention(self.norm(x, f"{block}.attn_norm"), index, positions)
            x = x + self.norm_if_any(mixed, f"{block}.post_attention_norm")
            hidden = self.feed_forward(self.norm(x, f"{block}.ffn_norm"), block)
            x = x + self.norm_if_any(hidden, f"{block}.post_ffw_norm")
        head = "output" if "output.weight" in self.tensors else "token_embd"
        logits = capped(self.linear(self.norm(x, "output_norm"), head), self.number("final_logit_softcapping"))
        if unread := sorted(set(self.tensors) - self.read):
            raise VerificationError(Problem("llama.cpp has no use for a tensor of the file", str(self.path), unread[0]))
        return logits

    def feed_forward(self, x: Tensor, block: str) -> Tensor:
        """Return the feed-forward network's output: gated by a matrix of its own, or by a half of one, or not at
        all.
        """
        up = self.linear(x, f"{block}.ffn_up")
        if f"{block}.ffn_gate.weight" in self.tensors:
            up = self.activated(self.linear(x, f"{block}.ffn_gate")) * up
        elif up.shape[-1] == 2 * self.number("feed_forward_length"):
            gate, up = up.chunk(2, dim=-1)
            up = self.activated(gate) * up
        else:
            up = self.activated(up)
        return self.linear(up, f"{block}.ffn_down")

    def activated(self, x: Tensor) -> Tensor:
        if self.graph.activation == "gelu":
            return torch.nn.functional.gelu(x, approximate="tanh")
        return torch.nn.functional.silu(x)

    def attention(self, x: Tensor, layer: int, positions: Tensor) -> Tensor:
        """Return causal attention of tokens that follow each other, whatever their positions. x: [length, width]."""
        block, heads = f"blk.{layer}", self.number("attention.head_count")
        q, k, v = self.projected(x, block, heads, self.number("attention.head_count_kv"))
        q, k = self.norm_if_any(q, f"{block}.attn_q_norm"), self.norm_if_any(k, f"{block}.attn_k_norm")
        if self.graph.rotates(layer):
            cosine, sine = self.rotation(positions, local=self.graph.has_window(layer))
            q, k = self.rotated(q, cosine, sine), self.rotated(k, cosine, sine)
        k, v = (one.repeat_interleave(heads // len(k), 0) for one in (k, v))
        shared = self.number("block_count") == self.graph.shared_scale
        width = self.number("embedding_length") // heads if shared else q.shape[-1]
        scores = capped(q @ k.transpose(1, 2) / math.sqrt(width), self.number("attn_logit_softcapping"))
        hidden = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        if self.graph.has_window(layer):
            hidden |= torch.ones_like(hidden).tril(-self.number("attention.sliding_window"))
        mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
        return self.linear(mixed.transpose(0, 1).flatten(1), f"{block}.attn_output")

    def projected(self, x: Tensor, block: str, heads: int, key_heads: int) -> tuple[Tensor, ...]:
        """Return queries, keys and values [heads, length, width], by one matrix or by three. x: [length, in]."""
        if f"{block}.attn_qkv.weight" in self.tensors:
            width = self.number("attention.key_length")
            sizes = [heads * width, key_heads * width, key_heads * width]
            parts = torch.split(self.linear(x, f"{block}.attn_qkv"), sizes, dim=-1)
        else:
            parts = tuple(self.linear(x, f"{block}.attn_{name}") for name in "qkv")
        counts = (heads, key_heads, key_heads)
        return tuple(part.view(len(x), count, -1).transpose(0, 1) for part, count in zip(parts, counts, strict=True))

    def rotated(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Return queries or keys [heads, length, width], of which as much is rotated as there are cosines."""
        turned, kept = x[..., : 2 * cosine.shape[-1]], x[..., 2 * cosine.shape[-1] :]
        paired = self.graph.rotates_pairs
        a, b = (turned[..., ::2], turned[..., 1::2]) if paired else turned.chunk(2, dim=-1)
        parts = a * cosine - b * sine, a * sine + b * cosine
        turned = torch.stack(parts, dim=-1).flatten(-2) if paired else torch.cat(parts, dim=-1)
        return torch.cat([turned, kept], dim=-1)

    def rotation(self, positions: Tensor, *, local: bool) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [length, pairs] of rotary positions [length]. local: of a layer with a window."""
        width, base = self.number("rope.dimension_count"), self.number("rope.freq_base")
        if local and self.graph.window_base is not None:
            angles = positions[:, None] * frequencies_of(self.graph.window_base, width)
            return angles.cos().float(), angles.sin().float()
        frequencies = frequencies_of(base, width) / self.divisors(positions)
        factor, kind = self.number("rope.scaling.factor", 1.0), self.number("rope.scaling.type")
        size, slow = self.number("rope.scaling.attn_factor", 1.0), frequencies / factor
        if kind == "yarn":
            kept = self.kept(width, base)
            frequencies = slow * (1 - kept) + frequencies * kept
            size = 1 + 0.1 * math.log(factor)
        elif kind == "linear":
            frequencies = slow
        angles = positions[:, None] * frequencies
        return (angles.cos() * size).float(), (angles.sin() * size).float()

    def divisors(self, positions: Tensor) -> Tensor:
        """Return the divisors of frequencies [pairs] or [1]: of long texts where the positions are those of one."""
        if "rope_freqs.weight" in self.tensors:
            return self.tensor("rope_freqs.weight")
        if "rope_factors_long.weight" in self.tensors:
            long, short = self.tensor("rope_factors_long.weight"), self.tensor("rope_factors_short.weight")
            return long if int(positions.max()) >= self.number("rope.scaling.original_context_length") else short
        return torch.ones(1)

    def kept(self, width: int, base: float) -> Tensor:
        """Return the share, from 0 to 1, that YaRN leaves of each frequency [pairs]."""
        original = self.number("rope.scaling.original_context_length")
        dims = (
            width * math.log(original / (beta * 2 * math.pi)) / (2 * math.log(base)) for beta in (BETA_FAST, BETA_SLOW)
        )
        first, last = dims
        low, high = max(0, math.floor(first)), min(width - 1, math.ceil(last))
        ramp = (torch.arange(width // 2, dtype=torch.float64) - low) / max(0.001, high - low)
        return 1 - ramp.clamp(0, 1)


def frequencies_of(base: float, width: int) -> Tensor:
    """Return rotary frequencies [width / 2] in float64."""
    return base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)


def capped(x: Tensor, cap: float | None) -> Tensor:
    """Return values that stay softly below a cap, or x without one."""
    return x if cap is None else cap * torch.tanh(x / cap)
