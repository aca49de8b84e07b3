"""Name the optional parts of an installation, what each is for, and how to get it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Extra:
    """An optional part. modules: what can be imported when it is there, with the package that brings it. purpose: what
    it is for.
    """

    name: str
    modules: Mapping[str, str]
    purpose: str

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages that are not installed; nothing is imported to find out."""
        return tuple(package for module, package in self.modules.items() if importlib.util.find_spec(module) is None)

    @property
    def command(self) -> str:
        """The command that installs what is missing."""
        return f"pip install {' '.join(self.missing or self.modules.values())}"


EXTRAS = {
    extra.name: extra
    for extra in (
        Extra("gguf", {"gguf": "gguf"}, "export to llama.cpp and Ollama"),
        Extra("nlg", {"rouge_score": "rouge-score", "sacrebleu": "sacrebleu"}, "scores of written texts"),
        Extra("onnx", {"onnx": "onnx", "onnxruntime": "onnxruntime"}, "export to onnxruntime"),
        Extra("ray", {"ray": "ray"}, "comparisons on a cluster"),
        Extra("search", {"nevergrad": "nevergrad"}, "combine --how search"),
        Extra(
            "trackers",
            {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"},
            "following runs in a browser; each tracker works alone",
        ),
    )
}
"""All optional parts by name, as `pip install '.[NAME]'` has them."""
