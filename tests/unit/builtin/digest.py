"""A fingerprint of the built-in data, which `python -m tests.unit.builtin.digest` prints."""

from __future__ import annotations

import hashlib
import json

from reflora_cli.builtin.rows import EXAMPLES, rows
from reflora_cli.builtin.sentences import texts
from reflora_cli.builtin.world import SPLITS

EVERY_SPLIT = [(generator, split) for generator in EXAMPLES for split in SPLITS]


def digest() -> str:
    """The SHA-256 of all rows and all pretraining texts."""
    everything = [[rows(generator, split) for generator, split in EVERY_SPLIT], texts()]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()


if __name__ == "__main__":
    print(digest())
