"""A training run, ready to start, and what the user should see of it before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reflora_cli.adapter_io.peft_rules import unreadable
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.targets import stacked_experts
from reflora_cli.adapters.ties import is_inside
from reflora_cli.data.batches import StepSampler
from reflora_cli.methods.settings import EvalProtocol, GenerationCache
from reflora_cli.methods.starts import DefaultStart
from reflora_cli.model.attention import attention_of
from reflora_cli.model.base import Base, parameter_count
from reflora_cli.model.precision import Compute, is_emulated
from reflora_cli.model.quantize import bits_per_weight, quantized_kind
from reflora_cli.model.streaming import streaming_facts
from reflora_cli.objectives.objective import Objective
from reflora_cli.objectives.rows import Rows
from reflora_cli.optim.partition import Partition
from reflora_cli.recipe.sections import EvalSection, Recipe
from reflora_cli.tasks.base import Task
from reflora_cli.tasks.examples import Example, PromptExample
from reflora_cli.training.earlier import Earlier
from reflora_cli.training.targets import listed


@dataclass(frozen=True)
class Job:
    """A training run, ready to start.

    saved: modules that travel with the adapter, trained or not. probes: rows on which to compare forms of the model
    later. left_out: linear layers without an adapter, by reason. earlier: the adapter from which the run begins, and
    beginning: what the user should see of that.
    """

    recipe: Recipe
    task: Task
    base: Base
    adapted: Adapted
    saved: tuple[str, ...]
    rows: Rows
    objective: Objective[Any]
    sampler: StepSampler
    optimizer: Partition
    total_steps: int
    probes: list[Example | PromptExample]
    environment: dict[str, object]
    left_out: dict[str, list[str]]
    earlier: Earlier | None
    beginning: dict[str, str]

    @property
    def compute(self) -> Compute:
        return self.objective.compute

    @property
    def emulates(self) -> bool:
        return is_emulated(self.compute.device, self.compute.dtype)

    def kind(self, row: int) -> int:
        """Return the value that all training rows of one batch must share, for the row with this index."""
        return self.objective.kind(self.rows.training[row])

    def quantization(self) -> str:
        bits = bits_per_weight(self.base.model)
        return "" if bits is None else f", {quantized_kind(self.base.model)} ({bits:.2f} bits per weight)"

    @property
    def unreadable(self) -> str:
        """Why PEFT cannot read the adapter; empty if it can."""
        return self.recipe.method.layer.not_for_peft or unreadable(self.base.model, self.adapted.layers)

    def ranks(self) -> dict[str, str]:
        """Return the ranks of the modules if they were chosen for this run."""
        if not self.recipe.method.start.chooses_ranks:
            return {}
        own = [pair.rank for pair in self.adapted.pairs]
        return {"ranks": f"{min(own)} to {max(own)} in {len(own)} modules, {sum(own)} in all"}

    def not_adapted(self) -> dict[str, str]:
        """Return the modules without an adapter that a user of the default targets would not expect."""
        found = [f"{listed(names)} ({reason})" for reason, names in self.left_out.items()]
        experts = {n: size for n, size in stacked_experts(self.base.model).items() if n not in self.adapted.in_place}
        if experts:
            share = sum(experts.values()) / parameter_count(self.base.model)
            found.append(f"{len(experts)} stacked weights of experts, {share:.0%} of all parameters")
        return {"not adapted": "; ".join(found)} if found else {}

    def trained_whole(self) -> str:
        """Return the modules trained whole, and those that train with them because they share a weight."""
        chosen = self.base.trainable(self.recipe.method)
        tied = [name for name in self.saved if not is_inside(name, (*chosen, *self.base.fresh))]
        return (", ".join(chosen) or "nothing") + (f", with {', '.join(tied)} (tied)" if tied else "")

    def facts(self) -> dict[str, str]:
        """Return what the user should see before the first step."""
        trained = sum(parameter.numel() for parameter in self.adapted.parameters.values())
        total = parameter_count(self.base.model)
        matches = ", ".join(f"{pattern} ({count})" for pattern, count in self.adapted.matches.items())
        method = self.recipe.method
        way = "" if method.layer.not_merged else ": merge it"
        return {
            "model": f"{self.base.source.name}, {self.compute.dtype_name}, {self.compute.device}{self.quantization()}",
            **streaming_facts(self.base.model),
            "attention": attention_of(self.base.model),
            **({"slow": "this CPU emulates half precision; float32 is many times faster"} if self.emulates else {}),
            "method": method.summary,
            **({"caution": "; ".join(warnings)} if (warnings := cautions(self.recipe)) else {}),
            **self.beginning,
            "targets": matches,
            **self.ranks(),
            **self.not_adapted(),
            **({"not for PEFT": f"{reason}{way}"} if (reason := self.unreadable) else {}),
            **({"not merged": method.layer.not_merged} if method.layer.not_merged else {}),
            "trained whole": self.trained_whole(),
            "parameters": f"{trained:,} trained of {total:,} ({trained / total:.2%})",
            "task": f"{self.task.name}, {len(self.rows.training):,} training rows",
            **self.rows.facts,
            **(
                {"dropped": f"{self.rows.dropped:,} rows whose answer max_length cuts off"} if self.rows.dropped else {}
            ),
            **({"batches": "; ".join(notes)} if (notes := self.objective.notes()) else {}),
            "steps": f"{self.total_steps:,} of {self.recipe.train.batch_size} rows",
        }


def cautions(recipe: Recipe) -> list[str]:
    """Say which settings are legal but seldom meant."""
    method, rate = recipe.method, recipe.train.learning_rate
    found = []
    if method.lr_ratio > 1:
        found.append(
            f"the learning rate of B is {rate * method.lr_ratio:g}: with method.lr_ratio={method.lr_ratio:g} (LoRA+) "
            "the best train.learning_rate was 2 to 57 times below LoRA's"
        )
    if method.lr_ratio != 1 and method.update.corrects_balance:
        found.append(
            f"method.lr_ratio and method.update={method.update} both correct the balance of A and B: use one of them"
        )
    if not method.layer.begins_as_base and method.after is None:
        found.append(
            f"method.layer={method.layer} begins with a random change of every adapted weight: the model may be worse "
            "than its base until it has trained for a while"
        )
    if recipe.eval.cache is GenerationCache.STATIC and is_silent(recipe.eval):
        found.append("eval.cache=static has no effect: eval.protocol=choices compares candidates and writes no text")
    return [*found, *start_cautions(recipe)]


def is_silent(section: EvalSection) -> bool:
    """Whether nothing is written when a model of prompts is scored."""
    return section.protocol is EvalProtocol.CHOICES and section.samples == 0


def start_cautions(recipe: Recipe) -> list[str]:
    """Say which settings are seldom meant with a start of the user's choice."""
    method = recipe.method
    if method.after is not None and not isinstance(method.start, DefaultStart):
        return [f"method.start={method.start} has no effect: A and B continue from method.after"]
    if not method.start.moves_base or method.after is not None:
        return []
    found, part = [], f"the part of the base's weights that method.start={method.start} moves into A and B"
    if method.dropout > 0:
        found.append(f"method.dropout also applies to {part}, not only to what is trained")
    if recipe.train.weight_decay > 0:
        found.append(f"train.weight_decay pulls {part} towards zero")
    return found
