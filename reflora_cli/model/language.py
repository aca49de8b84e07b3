"""Load a causal language model, and take it apart into its body and its head.

The head is applied apart from the body so that logits are made only where they are needed: they are by far the largest
tensor of training (tokens x vocabulary). Some architectures scale or squash their logits after the head. `logits_of`
holds the known ways, and `check_parts` compares with the model's own forward pass before training.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.auto import auto_class, load_config
from reflora_cli.model.base import Base
from reflora_cli.model.load import load_pretrained
from reflora_cli.model.precision import Compute, precision
from reflora_cli.model.sources import Source, find_source
from reflora_cli.recipe.sections import ModelSection

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Config fields with the bound to which logits are squashed."""
PARTS_TOLERANCE = 2e-2
"""The largest accepted difference as a share of the largest logit: a forgotten factor or cap is far outside, a half
precision's rounding inside."""


def load_language_model(section: ModelSection, revision: str | None, dtype: torch.dtype) -> Base:
    """Load a causal language model on the CPU.

    No weight may be missing: unlike a classifier's head, a random language-model head is never wanted. Raises
    InputError for a model that cannot be found, read or used, and for a tokenizer that cannot end an answer.
    """

    def configure(source: Source) -> Any:
        return load_config(source.location, source.revision)

    source = find_source(section.name, revision)
    base, report = load_pretrained(auto_class("AutoModelForCausalLM"), section, source, dtype, configure)
    check_complete(source, report)
    check_end(base)
    return base


def check_complete(source: Source, report: dict[str, Any]) -> None:
    """Raises InputError for weights that would be random."""
    absent = sorted(report["missing_keys"])
    mismatched = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in report["mismatched_keys"])
    if absent or mismatched:
        problem = Problem(
            "the base model's checkpoint lacks weights of a causal language model: they would be random",
            where=f"model.name: {source.name}",
            found=", ".join((absent + mismatched)[:3]),
            expected="a checkpoint with every weight of its architecture, head included",
        )
        raise InputError(problem)


def check_end(base: Base) -> None:
    """Raises InputError for a tokenizer without an end token."""
    if base.tokenizer.eos_token_id is None:
        problem = Problem(
            "the tokenizer has no end-of-sequence token, so no answer could end",
            where=f"model.name: {base.source.name}",
            expected="a tokenizer with eos_token",
            remedy="set eos_token in its tokenizer_config.json",
        )
        raise InputError(problem)


def hidden_states(model: Any, *, cache: Any = None, **inputs: Any) -> Any:
    """Return the body's output; its `last_hidden_state` [n, length, width] is the head's input.

    cache: keys and values of tokens that were read before (`cache_of`), or None. Position ids are not passed to bodies
    that derive them from the mask.
    """
    body = model.base_model
    known = inspect.signature(body.forward).parameters
    if "position_ids" not in known:
        inputs.pop("position_ids", None)
    if cache is not None:
        inputs["cache" if "cache" in known else "past_key_values"] = cache  # the name that older versions know
    return body(**inputs)


def cache_of(output: Any) -> Any:
    """Return the keys and values that a body's output holds."""
    return output.cache if "cache" in output else output.past_key_values


def logits_of(model: Any, hidden: Tensor) -> Tensor:
    """Turn hidden [..., width] into logits [..., vocabulary], float32, with the scalings that architectures apply after
    the head.

    Gemma 2 and later squash the logits by tanh, Cohere and Falcon-H1 multiply them, Granite divides them.
    """
    config = model.config.get_text_config(decoder=True)
    logits: Tensor = model.get_output_embeddings()(hidden).float()
    if factor := getattr(config, "logit_scale", None):
        logits = logits * factor
    if divisor := getattr(config, "logits_scaling", None):
        logits = logits / divisor
    if factor := getattr(config, "lm_head_multiplier", None):
        logits = logits * factor
    if cap := next((cap for name in CAPS if (cap := getattr(config, name, None))), None):
        logits = torch.tanh(logits / cap) * cap
    return logits


def vocabulary(model: Any) -> int:
    """Return the number of tokens that the model embeds and has logits for; some models pad their tokenizer's
    number.
    """
    return int(model.get_input_embeddings().weight.shape[0])


def trained_head_parameters(model: Any) -> tuple[nn.Parameter, ...]:
    """Return the parameters of the head that are trained: none unless it is a target or trained whole."""
    return tuple(p for p in model.get_output_embeddings().parameters() if p.requires_grad)


@torch.no_grad()
def check_parts(base: Base, compute: Compute) -> None:
    """Compare body and head with the model's own forward pass on a few tokens. Raises InputError when they differ."""
    model, was_training = base.model, base.model.training
    model.eval()
    ids = torch.arange(4, device=compute.device)[None] % vocabulary(model)
    where = f"model.name: {base.source.name}"
    try:
        with precision(compute.device, compute.dtype):
            whole = model(input_ids=ids, use_cache=False).logits.float()
            parts = logits_of(model, hidden_states(model, input_ids=ids, use_cache=False).last_hidden_state)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        what = f"a {model.config.model_type} model is not supported: it is not a body with an output head"
        raise InputError(Problem(what, where, f"{type(error).__name__}: {error}")) from error
    model.train(was_training)
    if not whole.isfinite().all():
        what, found = "the model's logits are not finite", f"{compute.dtype_name}, with the adapter if there is one"
        expected = "weights and adapter values that do not overflow in this dtype; or another model.dtype"
        raise InputError(Problem(what, f"model.name: {base.source.name}", found, expected))
    difference, size = float((whole - parts).abs().max()), float(whole.abs().max())
    if not difference <= PARTS_TOLERANCE * max(size, 1e-6):
        problem = Problem(
            f"a {model.config.model_type} model is not supported: it changes its logits in an unknown way",
            where=where,
            found=f"logits of up to {size:.3g} that differ by {difference:.3g} from its head's on its body's output",
        )
        raise InputError(problem)
