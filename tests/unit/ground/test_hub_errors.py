"""Errors of the hub say which page to visit and which command to type."""

from __future__ import annotations

import sys

import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from reflora_cli.ground.hub_errors import Reason, hub_reason
from reflora_cli.model import load


def reason_of(kind: type[Exception], page: str = "meta/model") -> Reason | None:
    """The reason of an exception as libraries wrap it."""
    try:
        try:
            raise kind.__new__(kind)
        except Exception as error:
            raise OSError("cannot load") from error
    except OSError as wrapped:
        return hub_reason(wrapped, page, "a directory")


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (errors.GatedRepoError, ("gated", "licence at https://huggingface.co/meta/model", "hf auth login")),
        (errors.RepositoryNotFoundError, ("no such repository", "https://huggingface.co/meta/model", "hf auth login")),
        (errors.RevisionNotFoundError, ("branch, tag or commit", "https://huggingface.co/meta/model")),
        (errors.OfflineModeIsEnabled, ("HF_HUB_OFFLINE", "a directory")),
        (errors.LocalEntryNotFoundError, ("cannot be reached", "a directory")),
        (type("ConnectError", (Exception,), {}), ("cannot be reached", "a directory")),
    ],
)
def test_reason_and_remedy(kind: type[Exception], words: tuple[str, ...]) -> None:
    reason = reason_of(kind)
    assert reason is not None
    assert not [word for word in words if word not in f"{reason.found} {reason.remedy}"], reason


def test_a_data_set_has_a_page_of_its_own() -> None:
    reason = reason_of(errors.GatedRepoError, "datasets/some/rows")
    assert reason is not None
    assert "https://huggingface.co/datasets/some/rows" in reason.remedy


def test_other_errors_are_not_the_hubs() -> None:
    assert reason_of(KeyError) is None


def test_offline_every_missing_file_is_the_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    reason = reason_of(KeyError)
    assert reason is not None
    assert "HF_HUB_OFFLINE" in reason.remedy


@pytest.mark.parametrize("terminal", [True, False])
def test_downloads_show_bars_on_a_terminal_only(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(load, "is_terminal", lambda: terminal)
    before = are_progress_bars_disabled()
    try:
        with load.quiet_transformers():
            assert are_progress_bars_disabled() != terminal
    finally:
        (disable_progress_bars if before else enable_progress_bars)()
