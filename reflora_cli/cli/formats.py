"""Say of each export format what it is for and what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reflora_cli.cli.export import Format
from reflora_cli.ground.extras import EXTRAS, Extra


@dataclass(frozen=True)
class FormatNote:
    """What is said of an export format. extra: the optional part that writes it, if it needs one. further: what some of
    its kinds need besides.
    """

    what: str
    reader: str
    extra: Extra | None = None
    further: str = ""

    @property
    def needs(self) -> str:
        """What must be installed for it."""
        libraries = ", ".join(self.extra.modules.values()) if self.extra else ""
        return "; ".join(filter(None, (libraries, self.further))) or "nothing else"

    @property
    def missing(self) -> str:
        """The command that installs what it lacks; empty where nothing is lacking."""
        return self.extra.command if self.extra and self.extra.missing else ""


NOTES: Mapping[Format, FormatNote] = {
    Format.PEFT: FormatNote("the adapter alone", "PEFT, vLLM, transformers"),
    Format.SAFETENSORS: FormatNote(
        "the model with the adapter merged in", "transformers, and programs that read its files"
    ),
    Format.GGUF: FormatNote(
        "the merged language model in one file",
        "llama.cpp, Ollama",
        EXTRAS["gguf"],
        "llama-quantize of llama.cpp for types below q8_0",
    ),
    Format.GGUF_ADAPTER: FormatNote("the adapter alone, beside a base in GGUF", "llama.cpp", EXTRAS["gguf"]),
    Format.ONNX: FormatNote("a merged classifier as a graph", "onnxruntime", EXTRAS["onnx"]),
}
"""One note for each format."""
