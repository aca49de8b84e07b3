"""A small model under one method, trained a little: what its properties are looked at on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.start import low_rank_layers
from reflora_cli.methods.method import Method
from reflora_cli.model.precision import precision
from reflora_cli.optim.build import Rates, build_course, build_optimizer
from reflora_cli.optim.partition import Partition
from reflora_cli.training.prepare import roles_in
from tests.method_table import WARMUP, Case
from tests.models import HEADS, batch, injected, make, quantized

STEPS, SETTLED = 60, 10
"""The most steps, and the last of them in which the loss must be low."""
STOPS = (1, WARMUP, WARMUP + 2, 8)
"""The steps after which everything that advances is kept."""


@cache
def base_of(architecture: str, kind: str) -> PreTrainedModel:
    """The model of that dtype, or with the linear layers of its body in few bits. It is shared: copy it."""
    model = make(architecture)
    if kind == "float32":
        return model
    return model.to(torch.bfloat16) if kind == "bfloat16" else quantized(model, kind)


class Training:
    """A small model under one method, with its optimizer."""

    def __init__(self, case: Case) -> None:
        architecture = "llama" if case.method.layer.keeps_cache else "bert"
        self.case, self.head = case, HEADS[architecture]
        self.base = base_of(architecture, case.base)
        self.model = copy.deepcopy(self.base)
        self.adapted: Adapted = injected(self.model, case.method, self.head, self.head, seed=1)
        self.dtype = torch.bfloat16 if case.base == "bfloat16" else torch.float32
        self.optimizer = self.new_optimizer()

    def outputs(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        """A model's logits as training computes them on a base of this dtype."""
        with precision(torch.device("cpu"), self.dtype):
            logits: Tensor = model(**inputs).logits
        return logits.float()

    @torch.no_grad()
    def logits(self, model: nn.Module) -> Tensor:
        return self.outputs(model.eval(), batch(seed=7)[0])

    def new_optimizer(self) -> Partition:
        return optimizer_for(self.case.method, self.adapted, self.case.rates)

    def step(self) -> float:
        return self.learn(*batch(seed=0, rows=8))

    def learn(self, inputs: Mapping[str, Tensor], labels: Tensor) -> float:
        """The loss of a batch, of which one step has learned."""
        loss = F.cross_entropy(self.outputs(self.model, inputs), labels)
        loss.backward()
        if (penalty := self.optimizer.rule.penalty()) is not None:
            penalty.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def kept(self) -> Kept:
        parameters = self.adapted.parameters
        return Kept(copied(parameters), copied(self.optimizer.tensors(parameters)))

    def continue_from(self, kept: Kept) -> None:
        """Go on from there, as a new process does: with a new optimizer."""
        with torch.no_grad():
            for name, parameter in self.adapted.parameters.items():
                parameter.copy_(kept.parameters[name])
        self.optimizer = self.new_optimizer()
        self.optimizer.load_tensors(self.adapted.parameters, copied(kept.optimizer))


@dataclass(frozen=True)
class Kept:
    """What a checkpoint holds: trained parameters and the optimizer's tensors, by name."""

    parameters: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def optimizer_for(method: Method, adapted: Adapted, rates: Rates) -> Partition:
    return build_optimizer(method, roles_in(adapted), rates, build_course(method, adapted.triplets, STEPS))


def has_learnt(losses: list[float]) -> bool:
    """Whether the loss is below half of the first, and stays there."""
    return len(losses) > SETTLED and all(loss < 0.5 * losses[0] for loss in losses[-SETTLED:])


class Run:
    """A training that is kept at its start, with its logits and weights there, and after each of STOPS. It ends when
    the loss has fallen and stays low; the model then stands as after the last of STOPS.
    """

    def __init__(self, case: Case) -> None:
        self.training = Training(case)
        self.at_start, self.first = self.training.logits(self.training.model), copied(self.training.adapted.parameters)
        self.merged_at_start = {name: own.merged() for name, own in low_rank_layers(self.training.adapted).items()}
        self.training.model.train()
        self.losses: list[float] = []
        self.kept: dict[int, Kept] = {}
        while len(self.losses) < STOPS[-1] or self.goes_on():
            self.losses.append(self.training.step())
            if len(self.losses) in STOPS:
                self.kept[len(self.losses)] = self.training.kept()
        self.training.continue_from(self.kept[STOPS[-1]])

    def goes_on(self) -> bool:
        return len(self.losses) < STEPS and isfinite(self.losses[-1]) and not has_learnt(self.losses)
