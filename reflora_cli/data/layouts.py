"""Find out from its columns in which of several layouts a file holds its rows."""

from __future__ import annotations

from reflora_cli.data.check import similar
from reflora_cli.data.read import Table
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.tasks.base import Layout, PromptTask


def layout_of(table: Table, task: PromptTask) -> Layout:
    """Return the layout whose columns the table has. Raises InputError where that is none, or more than one."""
    if not table.height:
        return task.layouts[0]  # the rows are missed where they are checked
    found = [layout for layout in task.layouts if all(name in table.names for name in layout.fields)]
    if len(found) == 1:
        return found[0]
    columns = ", ".join(table.names)
    expected = " | ".join(", ".join(layout.fields) for layout in task.layouts)
    if found:
        what = f"the columns match several layouts: {' | '.join(', '.join(own.fields) for own in found)}"
        remedy = "keep the columns of one layout, in every row"
        raise InputError(Problem(what, table.where, columns, f"one of {expected}", remedy))
    wanted = list(dict.fromkeys(name for layout in task.layouts for name in layout.fields))
    meant = similar([name for name in wanted if name not in table.names], list(table.names))
    remedy = "; ".join(f"is {own!r} meant to be {name!r}?" for name, own in meant.items())
    raise InputError(Problem("the columns match no known layout", table.where, columns, expected, remedy))
