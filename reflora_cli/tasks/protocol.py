"""Name the protocols. Nothing is imported here: the command line lists them before anything else is loaded."""

from __future__ import annotations

from enum import StrEnum


class EvalProtocol(StrEnum):
    """The ways to score a language model's answers; scores of different protocols are never comparable."""

    LLM_ADAPTERS = "llm-adapters"
    CHOICES = "choices"
