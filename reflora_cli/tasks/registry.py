"""Find tasks by name."""

from __future__ import annotations

from collections.abc import Sequence

from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.tasks import builtin, commonsense, glue, instruct, nlg
from reflora_cli.tasks.base import Mixture, Task

TASKS: dict[str, Task] = {
    task.name: task
    for task in (*builtin.TASKS, *glue.TASKS, commonsense.COMMONSENSE, *commonsense.TASKS, *instruct.TASKS, *nlg.TASKS)
}


def find_task(name: str | Sequence[str]) -> Task:
    """Return the task of that name, or the mixture of several. Raises InputError with the nearest names if there is
    none.
    """
    if isinstance(name, str):
        return named(name)
    if len(name) == 1:
        return named(name[0])
    tasks = [named(one) for one in name]
    parts = [part for task in tasks for part in task.parts]
    problems = [
        Problem("only tasks for language models can be mixed", "task.name", repr(task.name))
        for task in tasks
        if not task.parts
    ]
    if len(set(names := [part.name for part in parts])) < len(names):
        repeated = next(one for one in names if names.count(one) > 1)
        problems.append(Problem("a task is named twice", "task.name", repr(repeated)))
    if problems:
        raise InputError(*problems)
    return Mixture("+".join(name), tuple(parts))


def named(name: str) -> Task:
    if name not in TASKS:
        # `cola` alone is nearer to `glue/cola` than its letters are.
        whole = next((known for known, task in TASKS.items() if task.short.lower() == name.lower()), None)
        remedy = f"did you mean {whole!r}?" if whole else nearest(name, TASKS, "reflora list tasks")
        raise InputError(Problem("there is no such task", where="task.name", found=repr(name), remedy=remedy))
    return TASKS[name]
