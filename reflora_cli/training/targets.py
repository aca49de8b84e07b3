"""Find the matched modules that no adapter can serve, before anything is adapted.

`all-linear` leaves them out by itself. A named target that is not used is an error, since it was wanted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from reflora_cli.adapters.blocks import wanted_modules
from reflora_cli.adapters.in_place import matched_parameters
from reflora_cli.adapters.inject import too_small
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.method import Method
from reflora_cli.objectives.objective import Objective

SHOWN = 3
UNUSED, SMALL = "not used by the task", "smaller than the rank"


def left_out(objective: Objective[Any], method: Method, saved: Sequence[str]) -> dict[str, list[str]]:
    """Return the modules that `all-linear` leaves out, by the reason; empty for named targets. Where the base itself is
    trained, these are parameters, which named targets leave out too.

    saved: modules that travel whole. Raises InputError for a named target that the task does not use.
    """
    model = objective.base.model
    if method.layer.in_place:
        return left_out_in_place(objective, method, saved)
    if method.layer.is_virtual:
        return {}
    found = wanted_modules(model, method.layer, method.targets, saved)
    matched = list(dict.fromkeys(name for own in found.values() for name in own))
    unused = objective.unused(matched)
    if method.targets != "all-linear" or len(unused) == len(matched):
        refuse_unused(unused, len(matched))
        return {}
    small = [name for name in too_small(model, method, matched) if name not in unused]
    if len(small) + len(unused) == len(matched):
        return {}  # whatever is wrong then is said of the modules themselves
    return {reason: names for reason, names in ((UNUSED, unused), (SMALL, small)) if names}


def left_out_in_place(objective: Objective[Any], method: Method, saved: Sequence[str]) -> dict[str, list[str]]:
    """Return the parameters that no gradient reaches. Raises InputError for a target with nothing else."""
    found = matched_parameters(objective.base.model, method.layer, method.targets, saved)
    unused = objective.unused_parameters(list(dict.fromkeys(name for own in found.values() for name in own)))
    for target, names in found.items():
        if set(names) <= set(unused):
            what = f"no gradient reaches the {method.layer.in_place} of a target: they would never be trained"
            raise InputError(Problem(what, "method.targets", f"{target}: {listed(names)}"))
    return {UNUSED: unused} if unused else {}


def refuse_unused(names: Sequence[str], total: int) -> None:
    """Raises InputError for any such modules: an adapter that no gradient reaches would never be trained."""
    if names:
        example = rf"(?!{re.escape(names[0])}$).*\.{re.escape(names[0].rpartition('.')[2])}"
        problem = Problem(
            f"no gradient reaches {len(names)} of {total} adapters: they would never be trained",
            where="method.targets",
            found=listed(names),
            remedy="leave out modules that the task does not use: method.targets=all-linear does so by itself, "
            f"and a regular expression can, for example '{example}'",
        )
        raise InputError(problem)


def listed(names: Sequence[str]) -> str:
    """Return the first few names as text."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
