"""Compare a GGUF file with the merged model that it was made from.

Every tensor must be the merged one up to the type's rounding, and the tokenizer must be the one that was checked. The
logits that llama.cpp computes from the file, as `gguf_forward` does, must be those that transformers computes from the
same rounded weights, whatever the type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reflora_cli.console.reporter import SILENT, Reporter, Tell, Work, counted
from reflora_cli.export.gguf import GgufFile, GgufRequest, type_of, weights
from reflora_cli.export.gguf_forward import GgufModel
from reflora_cli.export.gguf_names import layout_of
from reflora_cli.export.gguf_tokenizer_fields import read_tokenizer
from reflora_cli.ground.errors import Problem, VerificationError
from reflora_cli.merging.verify import difference, refuse, tolerance
from reflora_cli.model.auto import load_config, load_plain


@dataclass(frozen=True)
class Rounding:
    """How far stored weights may be from the merged ones.

    largest: the largest error, as a share of the largest weight of the tensor. usual: the root mean square of the
    errors, as a share of that of the weights.
    """

    largest: float
    usual: float


EXACT = Rounding(0.0, 0.0)
ROUNDINGS = {
    "F32": EXACT, "F16": Rounding(2.0**-10, 2.0**-10), "BF16": Rounding(2.0**-7, 2.0**-7),
    "Q8_0": Rounding(2.0**-7, 2.0**-6), "Q6_K": Rounding(0.08, 0.08), "Q5_K": Rounding(0.15, 0.15),
    "Q5_1": Rounding(0.15, 0.15), "Q5_0": Rounding(0.15, 0.15), "Q4_K": Rounding(0.25, 0.3),
    "Q4_1": Rounding(0.25, 0.3), "Q4_0": Rounding(0.25, 0.3), "IQ4_NL": Rounding(0.25, 0.3),
    "IQ4_XS": Rounding(0.25, 0.3), "Q3_K": Rounding(0.4, 0.5), "Q2_K": Rounding(0.7, 0.7),
}  # fmt: skip
"""The roundings of ggml's types. Those of the smaller ones are some three times the usual, and half of what another
tensor would have: errors are as large as the weights are then.
"""
LENGTH, FARTHEST = 64, 4096
"""Tokens of the text that is compared, and the position of its last one, where the context reaches so far.

Scalings of rotary positions show at large positions only; much larger ones are not exact in float32.
"""


@torch.no_grad()
def verify_gguf(written: GgufFile, request: GgufRequest, reporter: Reporter = SILENT) -> float:
    """Read the file back. Returns the largest difference of its logits from the merged model's.

    Raises VerificationError for a tensor or a tokenizer that is not what it should be, and for logits that differ by
    more than 1e-4 of the largest from those of the weights that the file holds.
    """
    config: Any = load_config(request.directory)
    file = GgufModel(written.path)
    if read_tokenizer(file.fields) != request.tokenizer.tokenizer:
        raise VerificationError(Problem("the tokenizer was not written as it is", str(written.path)))
    ids, positions = text_of(config, file.number("context_length"))
    own: Any = load_plain("AutoModelForCausalLM", request.directory, torch.float32)
    merged = logits(own, ids, positions)
    with reporter.counting(Work("comparing the GGUF file", written.tensors, "tensors")) as tell:
        check_tensors(written, request, file, own, tell)
    reporter.note("comparing what llama.cpp computes of the file")
    stored = logits(own, ids, positions)
    del own
    found = file.logits(ids, positions)
    refuse(difference(stored, found), tolerance(stored, torch.float32), str(written.path), "the GGUF file")
    return difference(merged, found).largest


def text_of(config: Any, context: int) -> tuple[Tensor, Tensor]:
    """Return token ids and their positions: neighbouring ones, then ones that are spread over the context."""
    length = min(LENGTH, context)
    near, last = length // 2, min(FARTHEST, context) - 1
    far = torch.linspace(near, last, length - near).long()
    return torch.arange(length) * 37 % config.vocab_size, torch.cat([torch.arange(near), far])


def logits(model: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """Return transformers' logits [length, vocabulary]. With a mask, transformers does not take gaps between
    positions for borders of packed texts.
    """
    found: Tensor = model(ids[None], position_ids=positions[None], attention_mask=torch.ones_like(ids)[None]).logits[0]
    return found


def check_tensors(written: GgufFile, request: GgufRequest, file: GgufModel, own: Any, tell: Tell) -> None:
    """Compare every tensor with the merged one, and put what the file holds into the model `own`."""
    layout = layout_of(own.config, type(own).__name__)
    for key, place in counted(weights(request.directory, own.config).items(), tell):
        name, expected = layout.name(key), layout.arranged(key, place.read().float())
        back = file.tensor(name)
        stored: str = file.tensors[name].tensor_type.name
        announced, _ = type_of(name, tuple(expected.shape), request.kind)
        is_known = stored == announced if written.kind.is_written_here or announced == "F32" else stored in ROUNDINGS
        if not is_known or not is_rounded(back, expected, ROUNDINGS[stored]):
            raise VerificationError(
                Problem("a tensor was not written as it is", str(written.path), f"{name}, {stored}")
            )
        own.get_parameter(key).copy_(layout.restored(key, back))


def is_rounded(back: Tensor, expected: Tensor, rounding: Rounding) -> bool:
    """Whether stored weights are as near to the expected ones as their type's rounding."""
    if back.shape != expected.shape:
        return False
    errors = back - expected
    is_near = errors.abs().max() <= rounding.largest * expected.abs().max()
    return bool(is_near and errors.norm() <= rounding.usual * expected.norm())
