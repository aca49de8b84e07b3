"""`reflora doctor` tells what there is, never a token, and asks no network unless it is told to."""

from __future__ import annotations

import socket

import huggingface_hub
import pytest
import torch

from reflora_cli.diagnosing import examine
from reflora_cli.diagnosing.finding import Finding, State
from tests.cli.conftest import Reflora

TOKEN = "hf_secretsecretsecret"


def test_it_tells_of_everything_without_a_network(reflora: Reflora, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    outcome = reflora("doctor", "--json")
    assert outcome.status == 0, outcome.err
    found = {title: {own["name"]: own for own in findings} for title, findings in outcome.json.items()}
    assert list(found) == ["versions", "devices", "disks", "hub", "optional parts"]
    assert found["versions"]["torch"]["value"] == torch.__version__
    assert found["devices"]["nf4 on cpu"]["state"] == "ok"
    assert found["hub"]["login"]["value"] == "there is a token"
    assert set(found["optional parts"]) == {"gguf", "nlg", "onnx", "ray", "search", "trackers", "llama-quantize"}
    assert TOKEN not in outcome.out + outcome.err
    for own in found["optional parts"].values():
        assert bool(own["remedy"]) == (own["state"] == "warning")


def test_the_hub_is_asked_where_that_is_wanted(reflora: Reflora) -> None:
    """The tests have no network: the answer says so, and is no reason to fail."""
    outcome = reflora("doctor", "--online", "--json")
    assert outcome.status == 0, outcome.err
    (connection,) = [own for own in outcome.json["hub"] if own["name"] == "connection"]
    assert connection["state"] == "warning"


def test_what_no_run_can_do_without_is_an_error(reflora: Reflora, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Finding("torch", "not installed", State.BROKEN, "pip install 'torch>=2.7'")
    monkeypatch.setattr(examine, "versions", lambda: iter([missing]))
    outcome = reflora("doctor", "--json")
    assert outcome.status == 2
    error = outcome.json["error"]
    assert (error["status"], error["problems"][0]["remedy"]) == (2, "pip install 'torch>=2.7'")
    assert outcome.json["versions"][0]["state"] == "broken"
    assert "torch is broken" in outcome.err
