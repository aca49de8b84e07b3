"""Random models of the architectures in `tests.architectures`: weights are drawn from torch's generator as it is."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from tests.architectures import Architecture


def classifier(architecture: Architecture, **changed: Any) -> PreTrainedModel:
    """A model with a sequence-level head; some settings of its configuration changed."""
    found: PreTrainedModel = AutoModelForSequenceClassification.from_config(architecture.config(**changed))
    return found


def language_model(architecture: Architecture, **changed: Any) -> PreTrainedModel:
    """A causal language model; some settings of its configuration changed."""
    found: PreTrainedModel = AutoModelForCausalLM.from_config(architecture.config(**changed))
    return found


def widened(model: PreTrainedModel, deviation: float) -> PreTrainedModel:
    """The model with matrices large enough that adapters and attention matter."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=deviation)
    return model
