"""Name the types in which a GGUF file stores its matrices; torch is not needed."""

from __future__ import annotations

from enum import StrEnum


class GgufType(StrEnum):
    """Floats of 32 or 16 bits, or blocks of 32 whole numbers of 8 bits with one scale (q8_0)."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
