"""The few rows by which weights are searched, and the model that reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reflora_cli.adapter_io.keys import saved_modules
from reflora_cli.adapter_io.loading import load_whole
from reflora_cli.combining.base import base_section
from reflora_cli.combining.heads import source_of_head, whole_tensors
from reflora_cli.combining.request import CombineRequest, SearchRequest
from reflora_cli.combining.source import Source
from reflora_cli.console.reporter import Reporter
from reflora_cli.data.batches import cut
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.base import Base
from reflora_cli.model.precision import Compute, pick_device, precision, resolve_dtype
from reflora_cli.objectives.objective import Objective
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.sections import EvalSection, Recipe, TrainSection
from reflora_cli.recipe.task_section import TaskSection
from reflora_cli.recipe.tasks import task_of
from reflora_cli.runs.restore import refuse_random_head, with_its_labels
from reflora_cli.runs.trained_base import check_same


@dataclass(frozen=True)
class FewRows:
    """Encoded rows, and the objective with the model, on its device, that reads them. size: rows of a forward pass."""

    rows: Sequence[Any]
    objective: Objective[Any]
    size: int

    def loss(self) -> float:
        """Return the mean loss of the rows."""
        compute, kind = self.objective.compute, self.objective.kind
        total = 0.0
        for chunk in cut(range(len(self.rows)), self.size, lambda row: kind(self.rows[row])):
            arguments = self.objective.arguments([self.rows[row] for row in chunk])
            with precision(compute.device, compute.dtype):
                total += float(self.objective.loss_module(**arguments))
        return total / sum(map(self.objective.weight, self.rows))


def few_rows(request: CombineRequest, sources: Sequence[Source], reporter: Reporter) -> FewRows:
    """Return the rows that a request names, and the base with the modules saved whole: the mean of the adapters', all
    counted alike, or those of the adapter that the request names.

    Raises InputError for rows that cannot be read, and for a head that is for other labels.
    """
    recipe, head = recipe_of(request, sources), source_of_head(sources, request.head)
    task = task_of(recipe.task)
    kind, device = kind_of(task), pick_device()
    compute = Compute(device, resolve_dtype(recipe.model.dtype, device))
    examples = kind.load_examples(recipe)
    reporter.note(f"reading {recipe.model.name}, to search weights on {len(examples[task.train])} rows")
    base = kind.load_base(recipe.model, recipe.model.revision, compute.dtype, 0)
    check_same(base.source, base.commit, head.base)
    base = with_its_labels(head.files, base, task)
    put_whole(base, head, whole_tensors(sources, [1.0] * len(sources), request.head))
    base.place(device)
    base.model.eval()
    rows = kind.encode(recipe, base, examples).training
    return FewRows(rows, kind.make_objective(recipe, base, compute), recipe.eval.batch_size)


def put_whole(base: Base, head: Source, tensors: Mapping[str, Any]) -> None:
    """Load modules saved whole into the base. Raises InputError where the base needs a head and there is none."""
    modules = saved_modules(base.model, head.files.config)
    whole = {
        module: {key.removeprefix(f"{module}."): own for key, own in tensors.items() if key.startswith(f"{module}.")}
        for module in modules
    }
    if not whole:
        refuse_random_head(base)
    load_whole(base.model, head.files, whole)


def recipe_of(request: CombineRequest, sources: Sequence[Source]) -> Recipe:
    """Return a recipe whose training rows are those that a search looks at, on the base of the adapters."""
    search = request.search or SearchRequest()
    section = base_section(sources[0], request.base)
    found = next((own.recipe for own in sources if own.recipe is not None), None)
    if search.task is not None:
        task = TaskSection(name=search.task, data=search.data or "hub")
    elif found is not None:
        task = found.task.model_copy(update={"data": search.data or found.task.data})
        section = section.model_copy(update={"dtype": found.model.dtype, "quantization": found.model.quantization})
    else:
        expected = "--task NAME, or a run among the adapters"
        raise InputError(Problem("--how search needs a task whose rows it searches with", "--task", expected=expected))
    few = {"max_train_rows": search.rows, "validation": None, "validation_rows": None}
    never = EvalSection(every="never", select="last")
    return Recipe(model=section, task=task.model_copy(update=few), train=TrainSection(steps=1), eval=never)
