"""AdamW through bitsandbytes with a rule around it, for moments that are paged or in 8 bits (Dettmers et al. 2022,
arXiv 2110.02861).

A rule that only changes gradients works with it. One that transports moments does not: in 8 bits they are codes, not
numbers, and paged ones may lie elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from bitsandbytes.optim.adamw import AdamW
from torch import Tensor, nn

from reflora_cli.optim.partition import Partition
from reflora_cli.optim.rule import UpdateRule

KEPT = ("state1", "state2", "absmax1", "absmax2")
"""Of what bitsandbytes remembers: codes and scales. Parameters of fewer than 4096 elements have float32 moments."""


class BitsAndBytesMember(AdamW):
    """bitsandbytes' AdamW, in 8 bits unless other bits are asked for, which says what it remembers."""

    def __init__(self, groups: Sequence[dict[str, Any]], *, is_paged: bool, bits: Literal[8, 32] = 8) -> None:
        """is_paged: moments move to the host's memory when a GPU is full; on a CPU it changes nothing. bits: of each
        moment.
        """
        super().__init__(list(groups), weight_decay=0.0, optim_bits=bits, is_paged=is_paged)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients at hand."""
        super().step()
        # bitsandbytes writes past autograd, and DoRA's layers see by the version that their factors have changed.
        torch.autograd.graph.increment_version([p for group in self.param_groups for p in group["params"]])

    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return codes and scales as bitsandbytes begins them."""
        kept = self.state.pop(parameter, None)
        self.begin(parameter)
        fresh = self.state.pop(parameter)
        if kept is not None:
            self.state[parameter] = kept
        return {key: fresh[key] for key in KEPT if key in fresh}

    def count_steps(self, parameter: nn.Parameter, steps: Tensor) -> None:
        """Set the number of steps that a parameter has had."""
        own = self.state.pop(parameter)
        self.begin(parameter)
        self.state[parameter].update(own)
        self.state[parameter]["step"] = int(steps)

    def begin(self, parameter: nn.Parameter) -> None:
        """Let bitsandbytes make the parameter's state."""
        for group, members in enumerate(self.param_groups):
            for place, own in enumerate(members["params"]):
                if own is parameter:
                    self.init_state(members, parameter, group, place)


class PairAdamW8bit(Partition):
    """AdamW in 8 bits over all parameters, between `rule.before_step` and `rule.after_step`."""

    def __init__(self, groups: Sequence[dict[str, Any]], rule: UpdateRule, *, is_paged: bool) -> None:
        """is_paged: moments move to the host's memory when a GPU is full; on a CPU it changes nothing."""
        super().__init__([BitsAndBytesMember(groups, is_paged=is_paged)], rule)
