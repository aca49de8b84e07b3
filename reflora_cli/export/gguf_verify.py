"""Compare a GGUF file with the merged model that it was made from.

Every tensor must be the merged one up to the type's rounding, and the tokenizer must be the one that was checked. The
logits that llama.cpp computes from the file, as `gguf_forward` does, must be those that transformers computes from the
same rounded weights, whatever the type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from reflora_cli.export.gguf import POSITIONS, GgufFile, GgufRequest, weights
from reflora_cli.export.gguf_forward import GgufModel
from reflora_cli.export.gguf_names import layout_of
from reflora_cli.export.gguf_tokenizer import read_tokenizer
from reflora_cli.ground.errors import Problem, VerificationError
from reflora_cli.merging.verify import difference, refuse, tolerance
from reflora_cli.model.auto import load_config, load_plain

TOLERANCE: dict[str, float] = {"f32": 0.0, "f16": 2.0**-10, "bf16": 2.0**-7, "q8_0": 2.0**-7}
"""The largest error of a stored weight, as a share of the largest weight of its tensor."""
LENGTH, FARTHEST = 64, 4096
"""Tokens of the text that is compared, and the position of its last one, where the context reaches so far.

Scalings of rotary positions show at large positions only; much larger ones are not exact in float32.
"""


@torch.no_grad()
def verify_gguf(written: GgufFile, request: GgufRequest) -> float:
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
    check_tensors(written, request, file, own)
    stored = logits(own, ids, positions) if written.kind != "f32" else merged
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


def check_tensors(written: GgufFile, request: GgufRequest, file: GgufModel, own: Any) -> None:
    """Compare every tensor with the merged one, and put what the file holds into the model `own`."""
    layout = layout_of(own.config, type(own).__name__)
    for key, place in weights(request.directory, own.config).items():
        expected = layout.arranged(key, place.read().float())
        back = file.tensor(layout.name(key))
        name = layout.name(key)
        kept = len(place.shape) == 1 or name == POSITIONS
        accepted = (0.0 if kept else TOLERANCE[written.kind]) * np.abs(expected).max()
        if back.shape != expected.shape or not (back - expected).abs().max() <= accepted:
            raise VerificationError(Problem("a tensor was not written as it is", str(written.path), layout.name(key)))
        own.get_parameter(key).copy_(layout.restored(key, back))
