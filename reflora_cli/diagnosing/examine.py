"""Look at everything that a run depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from reflora_cli.diagnosing.devices import devices
from reflora_cli.diagnosing.finding import Finding, State
from reflora_cli.diagnosing.hub import hub
from reflora_cli.diagnosing.places import places
from reflora_cli.diagnosing.versions import optional_parts, versions

Report = Mapping[str, Sequence[Finding]]
"""What was found, by what was looked at."""


def examine(*, online: bool) -> Iterator[tuple[str, Sequence[Finding]]]:
    """Yield what was found about each part, as it is found. What is not installed is not asked further."""
    found = tuple(versions())
    yield "versions", found
    if any(own.state is State.BROKEN for own in found):
        yield "optional parts", tuple(optional_parts())
        return
    yield "devices", tuple(devices())
    yield "disks", tuple(places())
    yield "hub", tuple(hub(online=online))
    yield "optional parts", tuple(optional_parts())
