"""By which of transformers' functions a model computes attention: what machines and models can, and what was taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.settings import Attention
from reflora_cli.model.packed_attention import plain_name
from reflora_cli.recipe.sections import ModelSection

WHERE, REMEDY = "model.attention", "set model.attention=auto"


def attention_of(model: Any) -> str:
    """Return transformers' name of what computes a model's attention, `eager` too where a model has code of its own."""
    return plain_name(str(model.config.get_text_config()._attn_implementation))


def lacking(attention: Attention, device: torch.device) -> str:
    """Say what a machine lacks to train with a way to compute attention; empty where nothing is missing."""
    from transformers.utils.import_utils import (
        is_flash_attn_2_available,
        is_flash_attn_3_available,
        is_torch_flex_attn_available,
    )

    match attention:
        case Attention.AUTO | Attention.EAGER | Attention.SDPA:
            return ""
        case Attention.FLEX_ATTENTION:
            if device.type == "cpu":
                return "it cannot train on a CPU"
            return "" if is_torch_flex_attn_available() else "this version of torch does not have it"
        case Attention.FLASH_ATTENTION_2:
            found, package = is_flash_attn_2_available(), "flash-attn"
        case Attention.FLASH_ATTENTION_3:
            found, package = is_flash_attn_3_available(), "flash-attn-3"
    if device.type == "cpu":
        return "it needs a GPU, and this is a CPU"
    return "" if found else f"the package {package} is not installed"


def unfit(attention: Attention, dtype: torch.dtype) -> str:
    """Say why no machine can train with a way to compute attention in a dtype; empty where one can."""
    is_unfit = attention.is_flash and dtype is torch.float32
    return "it computes in bfloat16 or float16, and the base is in float32" if is_unfit else ""


def obstacle(attention: Attention, device: torch.device, dtype: torch.dtype) -> str:
    """Say why a machine cannot train with a way to compute attention in a dtype; empty where it can."""
    return lacking(attention, device) or unfit(attention, dtype)


def refuse_attention(attention: Attention, device: torch.device, dtype: torch.dtype) -> None:
    """Raises InputError for a way to compute attention in which this machine cannot train."""
    refuse_where(attention, "on this machine", lambda own: obstacle(own, device, dtype))


def refuse_unfit_attention(attention: Attention, dtype: torch.dtype) -> None:
    """Raises InputError for a way to compute attention in which no machine can train."""
    refuse_where(attention, f"in {str(dtype).removeprefix('torch.')}", lambda own: unfit(own, dtype))


def refuse_where(attention: Attention, where: str, reason_of: Callable[[Attention], str]) -> None:
    """Raises InputError for a way to compute attention against which there is a reason, and names those without one."""
    if reason := reason_of(attention):
        can = ", ".join(str(own) for own in Attention if not reason_of(own))
        what = f"this attention cannot be computed {where}"
        raise InputError(Problem(what, WHERE, f"{attention}: {reason}", f"one of {can}", REMEDY))


def section_on(section: ModelSection, device: torch.device, dtype: torch.dtype) -> ModelSection:
    """Return a base's section for a device on which it is not trained: with `auto` where the attention of its training
    cannot be computed, as on the CPU where a run is merged. Results are the same but for rounding.
    """
    can = not obstacle(section.attention, device, dtype)
    return section if can else section.model_copy(update={"attention": Attention.AUTO})


def attention_argument(section: ModelSection, auto_class: Any, config: Any) -> Mapping[str, str]:
    """Return the argument with which transformers loads a model, none for `auto`. Raises InputError for a model that
    does not know the chosen way, before any weight is read.
    """
    if section.attention is Attention.AUTO:
        return {}
    wanted = {"attn_implementation": str(section.attention)}
    try:
        with torch.device("meta"):
            found = attention_of(auto_class.from_config(config, **wanted))
    except (ImportError, ValueError) as error:
        refuse(config, str(error).strip().partition("\n")[0].partition(". ")[0], section, error)
    if found != section.attention:
        refuse(config, f"transformers would use {found}", section, None)
    return wanted


def refuse(config: Any, reason: str, section: ModelSection, cause: Exception | None) -> None:
    """Raises InputError for a model that cannot compute attention as its section says."""
    what = f"a {config.model_type} model does not support this attention"
    expected = "auto: the one that transformers chooses for the model"
    raise InputError(Problem(what, WHERE, f"{section.attention}: {reason}", expected, REMEDY)) from cause
