"""Name the types in which a GGUF file stores its matrices; torch is not needed."""

from __future__ import annotations

from enum import StrEnum


class GgufType(StrEnum):
    """Floats of 32 or 16 bits; blocks of 32 whole numbers of 8 bits with one scale (q8_0); or one of llama.cpp's
    smaller types, which its program llama-quantize makes of a file of 16 bits.
    """

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    Q6_K = "q6_k"
    Q5_K_M = "q5_k_m"
    Q5_K_S = "q5_k_s"
    Q5_1 = "q5_1"
    Q5_0 = "q5_0"
    Q4_K_M = "q4_k_m"
    Q4_K_S = "q4_k_s"
    Q4_1 = "q4_1"
    Q4_0 = "q4_0"
    IQ4_NL = "iq4_nl"
    IQ4_XS = "iq4_xs"
    Q3_K_L = "q3_k_l"
    Q3_K_M = "q3_k_m"
    Q3_K_S = "q3_k_s"
    Q2_K = "q2_k"

    @property
    def is_written_here(self) -> bool:
        """Whether a file of this type is written without llama.cpp."""
        return self in (GgufType.F32, GgufType.F16, GgufType.BF16, GgufType.Q8_0)

    @property
    def file_type(self) -> str:
        """The type's name in the gguf package's `LlamaFileType`."""
        return "ALL_F32" if self is GgufType.F32 else f"MOSTLY_{self.upper()}"
