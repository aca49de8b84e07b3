"""Settings of a run that are chosen by a name, each an enum: they need neither torch nor pydantic.

Recipes, commands, optimizers and models read them here, so that a name is written once.
"""

from __future__ import annotations

from enum import StrEnum


class Dtype(StrEnum):
    """The dtype of the frozen base; auto is bfloat16 on a GPU that computes in it, else float32."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Quantization(StrEnum):
    """The precision of the frozen linear layers, through bitsandbytes; heads, embeddings and norms keep their dtype."""

    NONE = "none"
    NF4 = "nf4"
    FP4 = "fp4"
    INT8 = "int8"


class Streaming(StrEnum):
    """Where the frozen linear weights of the base's blocks are kept if the device is too small for all of them: in host
    memory, or in the base's files. A block's are brought to the device while it computes.
    """

    NONE = "none"
    HOST = "host"
    DISK = "disk"


class Attention(StrEnum):
    """The functions of transformers that compute attention; auto is the one that transformers takes for a model."""

    AUTO = "auto"
    SDPA = "sdpa"
    EAGER = "eager"
    FLASH_ATTENTION_2 = "flash_attention_2"
    FLASH_ATTENTION_3 = "flash_attention_3"
    FLEX_ATTENTION = "flex_attention"

    @property
    def is_flash(self) -> bool:
        return self in (Attention.FLASH_ATTENTION_2, Attention.FLASH_ATTENTION_3)


class Optimizer(StrEnum):
    """AdamW with moments in float32 or in 8 bits (bitsandbytes), or gradient descent.

    The `paged_` forms, by bitsandbytes too, move their moments out of a GPU that is full.
    """

    ADAMW = "adamw"
    ADAMW_8BIT = "adamw_8bit"
    PAGED_ADAMW = "paged_adamw"
    PAGED_ADAMW_8BIT = "paged_adamw_8bit"
    SGD = "sgd"

    @property
    def has_small_moments(self) -> bool:
        return self in (Optimizer.ADAMW_8BIT, Optimizer.PAGED_ADAMW_8BIT)

    @property
    def is_paged(self) -> bool:
        return self in (Optimizer.PAGED_ADAMW, Optimizer.PAGED_ADAMW_8BIT)


class TrackerName(StrEnum):
    """The programs that can follow a run; each is a library of the same name."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    TRACKIO = "trackio"


class EvalProtocol(StrEnum):
    """The ways to score a language model's answers; scores of different protocols are never comparable."""

    LLM_ADAPTERS = "llm-adapters"
    CHOICES = "choices"


class GenerationCache(StrEnum):
    """How keys and values are kept while an answer is written: in tensors that grow, or in those of one size, which
    transformers compiles on a GPU.
    """

    DYNAMIC = "dynamic"
    STATIC = "static"


class BaseWeights(StrEnum):
    """The weights of the base to which a merged adapter is added: those that training saw, quantized and cast, or the
    checkpoint's own.
    """

    DEQUANTIZED = "dequantized"
    ORIGINAL = "original"


class Combining(StrEnum):
    """The ways to combine adapters: factors side by side, their sum truncated, or the rule of a paper."""

    CONCAT = "concat"
    SVD = "svd"
    TIES = "ties"
    DARE = "dare"
    SEARCH = "search"


class Backend(StrEnum):
    """What carries out the runs of a comparison: this machine, or a cluster that Ray manages."""

    LOCAL = "local"
    RAY = "ray"


class ReportFormat(StrEnum):
    """The formats of a report, and all of them."""

    MD = "md"
    LATEX = "latex"
    CSV = "csv"
    JSON = "json"
    HTML = "html"
    ALL = "all"
