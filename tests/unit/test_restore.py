"""Which revision of a hub model an adapter is put on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reflora_cli.adapter_config import PeftConfig
from reflora_cli.adapter_files import AdapterFiles
from reflora_cli.restore import trained_commit


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"base": {"name": "owner/model", "commit": "abc"}}, "abc"),
        ({"base": {"name": "owner/other", "commit": "abc"}}, None),
        ({"base": {"name": "owner/model", "commit": None}}, None),
        ({"base": "owner/model"}, None),
        ({}, None),
    ],
)
def test_adapter_stays_on_the_commit_it_was_trained_on(record: dict[str, Any], expected: str | None) -> None:
    files = AdapterFiles(Path(), PeftConfig(peft_type="LORA", target_modules=["x"]), {}, record)
    assert trained_commit(files, "owner/model") == expected


def test_without_an_adapter_there_is_no_commit() -> None:
    assert trained_commit(None, "owner/model") is None
