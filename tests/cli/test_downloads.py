"""Downloads from the hub have bars on a terminal's stderr, and none elsewhere; the hub is one of our own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reflora_cli.model.sources import BUILTIN
from tests.cli.test_progress import on_a_terminal, without_color

COMMIT = "a" * 40
FILE = "model.safetensors"


class OneModel(BaseHTTPRequestHandler):
    """Answers as the hub does for a repository with the files of the built-in model."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.wfile.write(self.answer())

    def answer(self) -> bytes:
        path = self.path.partition("?")[0]
        file = BUILTIN["tiny-llama"] / path.rpartition("/")[2]
        found = "/resolve/" in path and file.is_file()
        data = file.read_bytes() if found else b"[]" if "/tree/" in path else b"{}"
        self.send_response(200 if found or path.startswith("/api/") else 404)
        if not found:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        return data

    def log_message(self, format: str, *arguments: object) -> None: ...


@pytest.fixture
def online(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a command that has our hub and an empty cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), OneModel)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"), "")
    # A command that ran in this process may have switched bars off for its children.
    environment = {key: value for key, value in without_color().items() if not key.endswith("DISABLE_PROGRESS_BARS")}
    yield {
        **environment, **proxies, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1", "TRANSFORMERS_OFFLINE": "0",
    }  # fmt: skip
    server.shutdown()
    server.server_close()


ARGUMENTS = ("train", "quickstart", "model.name=me/tiny", "--dry-run", "--json")


def test_a_download_has_a_bar_on_a_terminal(online: dict[str, str]) -> None:
    out, shown = on_a_terminal(*ARGUMENTS, environment=online)
    assert json.loads(out)["recipe"]["model"]["name"] == "me/tiny"
    assert FILE in shown
    assert "100%" in shown


def test_a_download_has_none_in_a_pipe(online: dict[str, str]) -> None:
    command = [sys.executable, "-m", "reflora_cli", *ARGUMENTS]
    done = subprocess.run(command, env=online, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert FILE not in done.stderr
    assert done.stderr.startswith("loading quickstart\nplan: ")
