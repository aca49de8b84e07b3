"""Compute what llama.cpp computes with a GGUF file, from the file alone: its graphs of Llama and Qwen2 in float32.

The file's metadata and tensors are read under llama.cpp's names, one layer at a time, and nothing of transformers is
used: what the file does not say, llama.cpp does not know (src/models/llama.cpp, src/models/qwen2.cpp; the rotation is
ggml's, ggml/src/ggml-cpu/ops.cpp).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
        self.architecture: str = self.fields["general.architecture"].contents()

    def number(self, name: str, missing: Any = None) -> Any:
        """Return one of the architecture's numbers."""
        key = f"{self.architecture}.{name}"
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
        """Return the root mean square norm of x [length, width]."""
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.number("attention.layer_norm_rms_epsilon"))
        return x * scale * self.tensor(f"{name}.weight")

    @torch.no_grad()
    def logits(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Return logits [length, vocabulary] of token ids at positions, both [length].

        Raises VerificationError for a tensor that llama.cpp does not read.
        """
        self.read.clear()
        x = self.tensor("token_embd.weight")[ids]
        cosine, sine = self.rotation(positions)
        for index in range(self.number("block_count")):
            block = f"blk.{index}"
            x = x + self.attention(self.norm(x, f"{block}.attn_norm"), block, cosine, sine)
            hidden = self.norm(x, f"{block}.ffn_norm")
            gate = torch.nn.functional.silu(self.linear(hidden, f"{block}.ffn_gate"))
            x = x + self.linear(gate * self.linear(hidden, f"{block}.ffn_up"), f"{block}.ffn_down")
        head = "output" if "output.weight" in self.tensors else "token_embd"
        logits = self.linear(self.norm(x, "output_norm"), head)
        if unread := sorted(set(self.tensors) - self.read):
            raise VerificationError(Problem("llama.cpp has no use for a tensor of the file", str(self.path), unread[0]))
        return logits

    def attention(self, x: Tensor, block: str, cosine: Tensor, sine: Tensor) -> Tensor:
        """Return causal attention over all earlier tokens. x: [length, width]."""
        heads, key_heads = self.number("attention.head_count"), self.number("attention.head_count_kv")

        def split(name: str, count: int) -> Tensor:
            return self.linear(x, f"{block}.{name}").view(len(x), count, -1).transpose(0, 1)

        q = self.rotated(split("attn_q", heads), cosine, sine)
        k = self.rotated(split("attn_k", key_heads), cosine, sine).repeat_interleave(heads // key_heads, 0)
        v = split("attn_v", key_heads).repeat_interleave(heads // key_heads, 0)
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
        return self.linear(mixed.transpose(0, 1).flatten(1), f"{block}.attn_output")

    def rotated(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Return queries or keys [heads, length, width], rotated: llama's in neighbouring pairs, qwen2's by halves."""
        paired = self.architecture == "llama"
        a, b = (x[..., ::2], x[..., 1::2]) if paired else x.chunk(2, dim=-1)
        parts = a * cosine - b * sine, a * sine + b * cosine
        return torch.stack(parts, dim=-1).flatten(-2) if paired else torch.cat(parts, dim=-1)

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines [length, pairs] of rotary positions [length]."""
        width, base = self.number("rope.dimension_count"), self.number("rope.freq_base")
        frequencies = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        if "rope_freqs.weight" in self.tensors:
            frequencies = frequencies / self.tensor("rope_freqs.weight")
        factor, kind, size = self.number("rope.scaling.factor", 1.0), self.number("rope.scaling.type"), 1.0
        slow = frequencies / factor
        if kind == "yarn":
            kept = self.kept(width, base)
            frequencies = slow * (1 - kept) + frequencies * kept
            size = 1 + 0.1 * math.log(factor)
        elif kind == "linear":
            frequencies = slow
        angles = positions[:, None] * frequencies
        return (angles.cos() * size).float(), (angles.sin() * size).float()

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
