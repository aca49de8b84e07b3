"""All tasks by name."""

from __future__ import annotations

from reflora_cli.errors import InputError, Problem, nearest
from reflora_cli.tasks import builtin, glue
from reflora_cli.tasks.base import Task

TASKS: dict[str, Task] = {task.name: task for task in (*builtin.TASKS, *glue.TASKS)}


def find_task(name: str) -> Task:
    """The task of that name; InputError with the nearest names when there is none."""
    if name not in TASKS:
        # `cola` alone is nearer to `glue/cola` than its letters are.
        whole = next((known for known, task in TASKS.items() if task.short == name.lower()), None)
        remedy = f"did you mean {whole!r}?" if whole else nearest(name, TASKS)
        raise InputError(Problem("there is no such task", where="task.name", found=repr(name), remedy=remedy))
    return TASKS[name]
