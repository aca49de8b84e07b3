"""Match regular expressions from users or files with a limit on time.

A pattern such as (a+)+b takes time that doubles with every letter.
"""

from __future__ import annotations

import regex

from reflora_cli.ground.errors import InputError, Problem

SECONDS = 1.0


def matches_whole(pattern: str, text: str, where: str) -> bool:
    """Whether the pattern matches the whole text. Raises InputError for one that is broken or takes too long.

    where: the pattern's place, for the message.
    """
    try:
        return regex.fullmatch(pattern, text, timeout=SECONDS) is not None
    except TimeoutError as error:
        what, found = "a regular expression takes too long", f"{pattern!r} on {text!r}"
        raise InputError(Problem(what, where, found, "a pattern without nested repetitions")) from error
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        what = "a target is not a valid regular expression"
        raise InputError(Problem(what, where, f"{pattern!r}: {error}", "a name or a regular expression")) from error
