"""Prompt tuning: the embeddings P [k, width] of k virtual tokens stand before those of every row.

Lester, Al-Rfou, Constant 2021, arXiv 2104.08691. P is all that is trained. It starts at the embeddings of tokens that
are drawn from the vocabulary, as the paper found better than random vectors, or normal with deviation 1, as PEFT's
RANDOM. An encoder's head that reads a row's first place reads the first virtual token, as in PEFT.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from reflora_cli.adapters.virtual import Arguments, VirtualTokens, pads_left, reads_causally
from reflora_cli.factors.pair import Role
from reflora_cli.ground.errors import InputError, Problem


@final
class PromptTokens(VirtualTokens):
    """Trained embeddings [count, width], float32, on the device of the model's own."""

    peft_type: ClassVar[str] = "PROMPT_TUNING"

    def __init__(self, model: nn.Module, count: int, init: Literal["vocabulary", "normal"]) -> None:
        """Make the tokens with zeros: `start_itself` gives them their first values."""
        super().__init__(count, is_causal=reads_causally(model))
        own = embeddings_of(model)
        self.vocabulary = (own,)  # in a tuple, since the module has its place in the model already
        width = embedded(own, torch.zeros(1, dtype=torch.long)).shape[-1]
        self.embedding = nn.Parameter(torch.zeros(count, width, device=own.weight.device))
        self.init = init

    @torch.no_grad()
    def start_itself(self, draw: torch.Generator) -> None:
        (own,) = self.vocabulary
        if self.init == "normal":
            values = torch.randn(self.embedding.shape, generator=draw)
        else:
            values = embedded(own, torch.randint(own.num_embeddings, (self.count,), generator=draw))
        self.embedding.copy_(values)

    def put_before(self, given: Arguments) -> Arguments:
        (own,) = self.vocabulary
        rows = own(given["input_ids"])
        whole = torch.cat([self.embedding.to(rows.dtype).expand(rows.shape[0], -1, -1), rows], dim=1)
        found = {key: value for key, value in given.items() if key != "input_ids"}
        places, types, mask = (given.get(key) for key in ("position_ids", "token_type_ids", "attention_mask"))
        if places is not None:
            first = torch.arange(self.count, device=places.device).expand(places.shape[0], -1)
            found["position_ids"] = torch.cat([first, places], dim=1)
        if types is not None:
            found["token_type_ids"] = torch.cat([types.new_zeros(types.shape[0], self.count), types], dim=1)
        if mask is not None and pads_left(mask):
            order = self.order(mask)
            whole = whole.gather(1, order[:, :, None].expand_as(whole))
            ordered = ("position_ids", "token_type_ids")
            found |= {key: found[key].gather(1, order) for key in ordered if found.get(key) is not None}
        return {**found, "inputs_embeds": whole}

    def order(self, mask: Tensor) -> Tensor:
        """Return where the places [n, count + length] of rows with padding on the left come from: the padding, the
        virtual tokens, the row. mask: that of the rows [n, length].
        """
        padding = (mask.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
        at = torch.arange(self.count + mask.shape[1], device=mask.device).expand(mask.shape[0], -1)
        return torch.where(at < padding, at + self.count, torch.where(at < padding + self.count, at - padding, at))

    def wider_mask(self, mask: Tensor) -> Tensor:
        wide = torch.cat([mask.new_ones(mask.shape[0], self.count), mask], dim=1)
        return wide.gather(1, self.order(mask)) if pads_left(mask) else wide

    def cut(self, given: Arguments, output: Any) -> Any:
        """Return the output without the places of virtual tokens, if the pass began rows."""
        if given.get("inputs_embeds") is not None:
            output.last_hidden_state = output.last_hidden_state[:, self.count :]
        return output

    def roles(self) -> dict[str, Role]:
        return {"embedding": Role.UNDECAYED}

    def written(self) -> Tensor:
        return self.embedding

    @torch.no_grad()
    def read(self, written: Tensor) -> None:
        self.embedding.copy_(written)


def embeddings_of(model: nn.Module) -> nn.Embedding:
    """Return the model's token embedding. Raises InputError for a model without one."""
    find = getattr(model, "get_input_embeddings", None)
    own = find() if callable(find) else None
    if not isinstance(own, nn.Embedding):
        what, found = "prompt tuning is not possible with this model: it has no token embedding", type(model).__name__
        raise InputError(Problem(what, "method.layer", found, remedy="choose another method, such as method.name=lora"))
    return own


def embedded(own: nn.Embedding, ids: Tensor) -> Tensor:
    """Return the embeddings [k, width] of tokens, float32."""
    found: Tensor = own(ids.to(own.weight.device))
    return found.detach().float()
