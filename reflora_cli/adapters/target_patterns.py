"""Which paths a target pattern names."""

from __future__ import annotations

import re

from reflora_cli.ground.patterns import matches_whole

PLAIN_NAME = re.compile(r"[\w.]+")


def matches(pattern: str, name: str) -> bool:
    """Whether a target pattern names the module at path `name`. Raises InputError for a broken regular expression."""
    if PLAIN_NAME.fullmatch(pattern):
        return name == pattern or name.endswith(f".{pattern}")
    return matches_whole(pattern, name, "method.targets")
