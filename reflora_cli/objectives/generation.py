"""The protocol `llm-adapters`: the model writes an answer, and the first match of the task's pattern counts.

As in the LLM-Adapters evaluation (Hu et al. 2023, arXiv 2304.01933), which DoRA and RefLoRA use: its prompt, at most
32 new tokens, what follows the last "### Response:"; no match is a wrong answer. There, one row at a time goes through
four beams; here rows are batched, padded on the left and masked, and `num_beams` is 1 unless the recipe says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast, final

import torch

from reflora_cli.data.encode_prompts import token_ids
from reflora_cli.data.pad import pad_left
from reflora_cli.errors import InputError, Problem
from reflora_cli.model.base import Base, positions
from reflora_cli.model.precision import Compute, precision
from reflora_cli.objectives.prediction import Prediction, Scorer
from reflora_cli.tasks.base import PromptExample, PromptTask

if TYPE_CHECKING:
    from transformers import GenerationConfig

RESPONSE = "### Response:"


@final
class Generation(Scorer):
    """Greedy or beam search, batched."""

    def __init__(self, base: Base, compute: Compute, num_beams: int, max_new_tokens: int) -> None:
        self.base, self.compute = base, compute
        self.num_beams, self.max_new_tokens = num_beams, max_new_tokens
        self.room = positions(base) - max_new_tokens
        if self.room < 1:
            expected = f"fewer than {positions(base)}, the positions of {base.source.name}"
            where = "eval.max_new_tokens"
            raise InputError(Problem("no room is left for a prompt", where, str(max_new_tokens), expected))

    def settings(self) -> dict[str, object]:
        return {"protocol": "llm-adapters", "num_beams": self.num_beams, "max_new_tokens": self.max_new_tokens}

    @torch.no_grad()
    def predict(self, task: PromptTask, examples: Sequence[PromptExample]) -> list[Prediction]:
        tokenizer, model = self.base.tokenizer, cast(Any, self.base.model)
        prompts = token_ids(tokenizer, [example.generation_prompt for example in examples])
        ids, mask = pad_left([prompt[-self.room :] for prompt in prompts], tokenizer.pad_token_id)
        device = self.compute.device
        with precision(device, self.compute.dtype), only(self.base, self.config()):
            generated = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=True)
        texts = tokenizer.batch_decode(generated[:, ids.shape[1] :], skip_special_tokens=True)
        outputs = [text.split(RESPONSE)[-1].strip() for text in texts]
        return [
            Prediction(example.label, task.parse(text, example.labels), output=text, cut=len(prompt) > self.room)
            for example, text, prompt in zip(examples, outputs, prompts, strict=True)
        ]

    def config(self) -> GenerationConfig:
        """All that shapes the search; what a model's own file says of sampling or penalties must not."""
        from transformers import GenerationConfig

        tokenizer = self.base.tokenizer
        return GenerationConfig(
            do_sample=False,
            num_beams=self.num_beams,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )


@contextmanager
def only(base: Base, config: GenerationConfig) -> Iterator[None]:
    """Generate as `config` says and nothing else: transformers fills gaps from the model's own configuration."""
    own = base.model.generation_config
    base.model.generation_config = config
    try:
        yield
    finally:
        base.model.generation_config = own
