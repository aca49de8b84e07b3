"""Write an answer and show it while it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.base import Base, positions
from reflora_cli.model.chat_template import own_end_tokens
from reflora_cli.model.precision import Compute, precision
from reflora_cli.objectives.generation import only

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

MOST_NEW_TOKENS = 256
"""The tokens of an answer where neither the user nor a recipe says how many."""
UNFINISHED = "\ufffd"
"""What a tokenizer writes for a character of which some bytes are still to come."""

Show = Callable[[str], None]
"""A function that shows a text behind what was shown before."""


@dataclass(frozen=True)
class WritingSettings:
    """How answers are written. temperature: 0 for the likeliest token each time. seed: that of the first answer's
    draws. ends: the tokens that end an answer because it is asked for in a way that does.
    """

    max_new_tokens: int
    temperature: float
    seed: int
    ends: tuple[int, ...] = ()


class Stream:
    """What `generate` calls with every new token: it shows the text as soon as it cannot change any more."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, show: Show) -> None:
        self.tokenizer, self.show = tokenizer, show
        self.prompt_seen = False
        self.ids: list[int] = []
        self.shown = ""

    def put(self, ids: Tensor) -> None:
        """Take the prompt [1, length] first, then one token at a time."""
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        self.ids += ids.flatten().tolist()
        text = self.text()
        if not text.endswith(UNFINISHED):
            self.show_up_to(text)

    def end(self) -> None:
        """Show what is left."""
        self.show_up_to(self.text())

    def text(self) -> str:
        found = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        return str(found).lstrip()

    def show_up_to(self, text: str) -> None:
        if text.startswith(self.shown):  # a tokenizer that cleans up its texts may take back what it has written
            new, self.shown = text[len(self.shown) :], text  # an interrupt while it is shown must not show it again
            self.show(new)


class Writer:
    """A language model that writes answers."""

    def __init__(self, base: Base, compute: Compute, settings: WritingSettings) -> None:
        """Raises InputError for answers that leave no room for a question."""
        self.base, self.compute, self.settings = base, compute, settings
        self.room = positions(base) - settings.max_new_tokens
        if self.room < 1:
            expected = f"fewer than {positions(base)}, the positions of {base.source.name}"
            found = str(settings.max_new_tokens)
            raise InputError(Problem("no room is left for a question", "--max-new-tokens", found, expected))

    @torch.no_grad()
    def write(self, prompt: Sequence[int], number: int, show: Show) -> str:
        """Write the answer that follows a prompt of at most `room` tokens, and return it.

        number: that of the answer in its conversation, on which draws depend. An interrupt (KeyboardInterrupt) ends the
        answer: what was written until then is returned.
        """
        stream = Stream(self.base.tokenizer, show)
        ids = torch.tensor([list(prompt)], device=self.compute.device)
        torch.manual_seed(self.settings.seed + number)
        try:
            with precision(self.compute.device, self.compute.dtype), only(self.base, self.config()):
                cast(Any, self.base.model).generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, streamer=stream
                )
        except KeyboardInterrupt:
            stream.end()
        return stream.text().rstrip()

    def config(self) -> GenerationConfig:
        """Return all settings of the search. An answer ends with the tokenizer's end token, or with one that the
        model's own configuration names: those of conversations are often others than those of texts.
        """
        from transformers import GenerationConfig

        tokenizer = self.base.tokenizer
        draws = (
            {"temperature": self.settings.temperature, "top_k": 0, "top_p": 1.0} if self.settings.temperature else {}
        )
        return GenerationConfig(
            do_sample=bool(draws),
            **draws,
            max_new_tokens=self.settings.max_new_tokens,
            eos_token_id=sorted({*own_end_tokens(self.base), *self.settings.ends}),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
        )


def most_new_tokens(base: Base) -> int:
    """Return the length of answers where the user does not say: at most half of the model's positions."""
    return min(MOST_NEW_TOKENS, positions(base) // 2)
