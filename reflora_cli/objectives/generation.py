"""The protocol `llm-adapters`: the model writes an answer, and the first match of the task's pattern counts.

As in the LLM-Adapters evaluation (Hu et al. 2023, arXiv 2304.01933), which DoRA and RefLoRA use: its prompt, at most
32 new tokens, what follows the last "### Response:"; no match is a wrong answer. There, one row at a time goes through
four beams; here rows are batched, padded on the left and masked, and `num_beams` is 1 unless the recipe says otherwise.
The same search writes the free texts that `references.py` compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast, final

import torch
from torch import Tensor

from reflora_cli.data.batches import cut
from reflora_cli.data.encode_chats import asked_tokens, turn_ends
from reflora_cli.data.pad import Padding, pad, pad_left
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.settings import GenerationCache
from reflora_cli.model.base import Base, positions
from reflora_cli.model.precision import Compute, precision
from reflora_cli.objectives.causal import trial_tokens
from reflora_cli.objectives.invariance import FOREIGN, LONG, Trial, agree, evaluating, pick_padding
from reflora_cli.objectives.score_batches import WRITTEN, longest_first, score_batches
from reflora_cli.objectives.scorer import Scorer
from reflora_cli.tasks.answers import Prediction
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.examples import PromptExample

if TYPE_CHECKING:
    from transformers import GenerationConfig

RESPONSE = "### Response:"
TRIED = 2
"""Tokens that are written to find out how prompts go through a model together: one is predicted by the prompt, one
from the cache."""
STATIC_MULTIPLE = 64
"""Prompts are padded to a multiple of this length where the cache has one size: few sizes are seen, and compiled."""


class AlwaysTheSame:
    """A logits processor that leaves one token to choose, so that what is compared follows the same tokens."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        only_one = torch.full_like(scores, float("-inf"))
        only_one[:, self.token] = 0
        return only_one


class NoRepeat:
    """A logits processor that lets no text have the same `size` tokens in a row twice.

    begin: the place where the written text begins. What the prompt holds may be said again: answers take names from it.
    """

    def __init__(self, size: int, begin: int) -> None:
        from transformers import NoRepeatNGramLogitsProcessor

        self.forbid, self.begin = NoRepeatNGramLogitsProcessor(size), begin

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        forbidden: Tensor = self.forbid(ids[:, self.begin :], scores)
        return forbidden


@dataclass(frozen=True)
class Penalties:
    """What a search avoids beside unlikely tokens.

    length_penalty: beams are compared by their log-likelihood over their length to this power. no_repeat_ngram: the
    number of tokens that no text has twice in a row; 0 for none.
    """

    length_penalty: float = 1.0
    no_repeat_ngram: int = 0

    def settings(self) -> dict[str, object]:
        """Return those that are in force."""
        length = {"length_penalty": self.length_penalty} if self.length_penalty != 1 else {}
        return {**length, **({"no_repeat_ngram": self.no_repeat_ngram} if self.no_repeat_ngram else {})}


@dataclass(frozen=True)
class Written:
    """What a model wrote. cut: the prompt was too long for it and lost its beginning."""

    text: str
    cut: bool


@final
class Generation(Scorer):
    """Greedy or beam search, batched."""

    def __init__(
        self,
        base: Base,
        compute: Compute,
        num_beams: int,
        max_new_tokens: int,
        penalties: Penalties = Penalties(),
        cache: GenerationCache = GenerationCache.DYNAMIC,
    ) -> None:
        """cache: `static` gives keys and values their final size at once, so that transformers compiles the passes
        after a prompt on a GPU. Raises InputError for a model that cannot be used so.
        """
        self.base, self.compute, self.cache = base, compute, cache
        self.num_beams, self.max_new_tokens, self.penalties = num_beams, max_new_tokens, penalties
        self.room = positions(base) - max_new_tokens
        if self.room < 1:
            expected = f"fewer than {positions(base)}, the positions of {base.source.name}"
            where = "eval.max_new_tokens"
            raise InputError(Problem("no room is left for a prompt", where, str(max_new_tokens), expected))
        rows = [ids[: positions(base) - TRIED] for ids in trial_tokens(base)]
        token = rows[LONG][-1]
        trial = Trial(rows, lambda row: self.plain_logits([*row, token]))
        ways = (Padding.LEFT, Padding.NONE, Padding.ALONE)
        write = partial(self.written_logits, AlwaysTheSame(token))
        self.padding = pick_padding(base, compute, trial, ways, partial(write, GenerationCache.DYNAMIC))
        if cache is GenerationCache.STATIC:
            self.check_static(rows, write)
        # The beams of one row are a batch: where rows must be alone, what they keep of a prompt is not to be trusted.
        self.use_cache = self.padding is not Padding.ALONE or num_beams == 1

    def settings(self) -> dict[str, object]:
        own = {"protocol": "llm-adapters", "num_beams": self.num_beams, "max_new_tokens": self.max_new_tokens}
        cache = {"cache": self.cache} if self.cache is GenerationCache.STATIC else {}  # as in earlier files
        return {**own, **self.penalties.settings(), **cache}

    def check_static(self, rows: Sequence[list[int]], write: Callable[..., Tensor]) -> None:
        """Raises InputError for a model that with a cache of one size writes otherwise than without.

        rows: those of the trial. write: `written_logits` with its first argument.
        """
        if self.padding is Padding.LEFT and self.base.reserved == 0:  # virtual tokens come after this trial
            with suppress(*FOREIGN):  # no such cache for this model
                caches = (GenerationCache.STATIC, GenerationCache.DYNAMIC)
                found, expected = (write(own, rows, self.padding) for own in caches)
                if agree(found, expected, self.compute.dtype):
                    return
        problem = Problem(
            f"a {self.base.model.config.model_type} model cannot keep keys and values in a cache of fixed size",
            where="eval.cache",
            found="static, with virtual tokens" if self.base.reserved else "static",
            remedy="eval.cache=dynamic",
        )
        raise InputError(problem)

    def plain_logits(self, row: Sequence[int]) -> Tensor:
        """Return the logits after the last tokens of a row [1, TRIED, vocabulary], float32, from one pass without a
        cache.
        """
        ids = torch.tensor([row], device=self.compute.device)
        with evaluating(self.base.model), precision(self.compute.device, self.compute.dtype):
            logits: Tensor = self.base.model(input_ids=ids, use_cache=False).logits[:, -TRIED:].float()
        return logits

    def written_logits(
        self, same: AlwaysTheSame, cache: GenerationCache, rows: Sequence[list[int]], padding: Padding
    ) -> Tensor:
        """Return the logits of the first new tokens [rows, TRIED, vocabulary], float32; `same` makes these tokens
        the same for all rows.
        """
        from transformers import GenerationConfig

        fill = self.base.tokenizer.pad_token_id
        ids, mask = (own.to(self.compute.device) for own in pad(rows, fill, padding))
        search = GenerationConfig(
            max_new_tokens=TRIED,
            do_sample=False,
            pad_token_id=fill,
            cache_implementation=implementation(cache),
            disable_compile=True,
        )
        with evaluating(self.base.model), precision(self.compute.device, self.compute.dtype), only(self.base, search):
            found = cast(Any, self.base.model).generate(
                input_ids=ids, attention_mask=mask, use_cache=True, output_logits=True,
                return_dict_in_generate=True, logits_processor=[same],
            )  # fmt: skip
        return torch.stack(found.logits, dim=1).float()

    def notes(self) -> list[str]:
        match self.padding:
            case Padding.NONE:
                return ["prompts of equally long rows only: the model reads padding"]
            case Padding.ALONE:
                return ["answers one by one: the model mixes the rows of a batch"]
            case _:
                return []

    def predict(self, task: PromptTask, examples: Sequence[PromptExample]) -> list[Prediction]:
        found = []
        for example, written in zip(examples, self.texts(examples), strict=True):
            text = written.text.split(RESPONSE)[-1].strip()
            found.append(Prediction(example.label, task.parse(text, example.labels), output=text, cut=written.cut))
        return found

    def batches(self, examples: Sequence[PromptExample], size: int) -> list[list[int]]:
        prompts = asked_tokens(self.base.tokenizer, examples)
        lengths = [min(len(own), self.room) + self.max_new_tokens for own in prompts]
        if self.cache is GenerationCache.STATIC:  # short rows take as much of it as long ones
            return cut(longest_first(lengths), size)
        return score_batches(lengths, size, WRITTEN)

    def texts(self, examples: Sequence[PromptExample]) -> list[Written]:
        """Return what the model writes for each example, in their order."""
        tokenizer = self.base.tokenizer
        return self.answers(asked_tokens(tokenizer, examples), turn_ends(tokenizer, examples))

    @torch.no_grad()
    def answers(self, prompts: Sequence[list[int]], ends: Sequence[int] = ()) -> list[Written]:
        """Return what the model writes after each prompt, given as tokens, in their order. ends: tokens that end a text
        beside the tokenizer's end token.
        """
        kept = [prompt[-self.room :] for prompt in prompts]
        outputs = [""] * len(kept)
        for batch in self.divided(kept):
            for index, text in zip(batch, self.write([kept[index] for index in batch], ends), strict=True):
                outputs[index] = text
        return [Written(text, len(prompt) > self.room) for text, prompt in zip(outputs, prompts, strict=True)]

    def divided(self, prompts: Sequence[list[int]]) -> list[list[int]]:
        """Return the indices of the prompts that go through the model together."""
        match self.padding:
            case Padding.ALONE:
                return [[index] for index in range(len(prompts))]
            case Padding.NONE:
                order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
                return cut(order, len(prompts), lambda index: len(prompts[index]))
            case _:
                return [list(range(len(prompts)))]

    def write(self, prompts: Sequence[list[int]], ends: Sequence[int] = ()) -> list[str]:
        """Return what the model writes after each prompt. ends: as in `answers`."""
        tokenizer, model, device = self.base.tokenizer, cast(Any, self.base.model), self.compute.device
        ids, mask = self.padded(prompts)
        size = self.penalties.no_repeat_ngram
        with precision(device, self.compute.dtype), only(self.base, self.config(ends)):
            generated = model.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=self.use_cache,
                logits_processor=[NoRepeat(size, ids.shape[1])] if size else [],
            )  # fmt: skip
        texts: list[str] = tokenizer.batch_decode(generated[:, ids.shape[1] :], skip_special_tokens=True)
        return texts

    def padded(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Return the prompts' ids and mask, int64 [n, length]; lengths of prompts differ little with a static cache."""
        fill, longest = self.base.tokenizer.pad_token_id, max(map(len, prompts))
        if self.cache is GenerationCache.STATIC and -(-longest // STATIC_MULTIPLE) * STATIC_MULTIPLE <= self.room:
            return pad_left(prompts, fill, STATIC_MULTIPLE)
        return pad(prompts, fill, self.padding)

    def config(self, ends: Sequence[int] = ()) -> GenerationConfig:
        """Return all settings of the search; a model's own file with sampling or penalties is not to change them. ends:
        as in `answers`.
        """
        from transformers import GenerationConfig

        tokenizer = self.base.tokenizer
        return GenerationConfig(
            do_sample=False,
            num_beams=self.num_beams,
            length_penalty=self.penalties.length_penalty,
            max_new_tokens=self.max_new_tokens,
            eos_token_id=[tokenizer.eos_token_id, *ends] if ends else tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            cache_implementation=implementation(self.cache),
        )


def implementation(cache: GenerationCache) -> str | None:
    """Return transformers' name of a cache; None for its own choice, which is one that grows."""
    return "static" if cache is GenerationCache.STATIC else None


@contextmanager
def only(base: Base, config: GenerationConfig) -> Iterator[None]:
    """Generate with the settings of `config` alone: transformers fills gaps from the model's own configuration."""
    own = base.model.generation_config
    base.model.generation_config = config
    try:
        yield
    finally:
        base.model.generation_config = own
