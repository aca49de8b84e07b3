"""Runs are published as they were shown: a dry run needs no network, and a fake hub stands for the real one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from reflora_cli.export.push import check_repository
from reflora_cli.ground.errors import InputError
from tests.cli.conftest import Reflora


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


class Hub:
    """A hub that notes what it is asked, keeps what is uploaded, and may fail."""

    def __init__(self, failing: Callable[[], Exception] | None = None, public: bool = False) -> None:
        self.failing, self.public = failing, public
        self.created: list[tuple[str, bool | None]] = []
        self.files: dict[str, bytes] = {}
        self.messages: list[str] = []

    def create_repo(self, name: str, *, private: bool | None, exist_ok: bool) -> huggingface_hub.RepoUrl:
        assert exist_ok
        if self.failing:
            raise self.failing()
        self.created.append((name, private))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{name if '/' in name else f'me/{name}'}")

    def repo_info(self, name: str) -> Any:
        return huggingface_hub.hf_api.ModelInfo(id=name, private=not self.public, tags=[])

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        assert repo_id.count("/") == 1
        root = Path(folder_path)
        self.files = {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}
        self.messages.append(commit_message)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hub]:
    """Put a hub in the place of the real one."""

    def put(**settings: Any) -> Hub:
        made = Hub(**settings)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
        return made

    return put


def test_a_dry_run_shows_everything_and_asks_nobody(
    run: Path, reflora: Reflora, hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a dry run used the network"))
    asked = hub(failing=lambda: AssertionError("a dry run asked the hub"))
    outcome = reflora("push", run, "me/model", "--dry-run", "--json")
    assert outcome.status == 0, outcome.err
    found = outcome.json
    adapter = {"README.md", "adapter_config.json", "adapter_model.safetensors", "reflora.json"}
    assert set(found["files"]) == {*adapter, "tokenizer.json", "tokenizer_config.json"}
    weights = run / "adapter" / "adapter_model.safetensors"
    assert found["files"][weights.name] == weights.stat().st_size
    assert (found["url"], found["dry_run"], asked.created) == (None, True, [])
    for word in ("me/model", "library_name: peft", "model-index:", "nothing was uploaded", "warning: "):
        assert word in outcome.err
    assert any("base_model" in warning for warning in found["warnings"])
    assert any(warning.startswith("adapter_config.json contains a private path") for warning in found["warnings"])


@pytest.mark.parametrize(("name", "private"), [("me/model", False), ("model", True)])
def test_what_was_shown_goes_up(name: str, private: bool, run: Path, reflora: Reflora, hub: Callable[..., Hub]) -> None:
    """The weights as they are, the record without the base's place, nothing that a killed process has left."""
    (run / "adapter" / ".adapter_config.json.1234").write_text("half")
    fake, options = hub(), ("--private",) if private else ()
    outcome = reflora("push", run, name, *options, "--json")
    assert outcome.status == 0, outcome.err
    assert fake.created == [(name, True if private else None)]
    assert {file: len(content) for file, content in fake.files.items()} == outcome.json["files"]
    for file in ("adapter_model.safetensors", "README.md", "adapter_config.json"):
        assert fake.files[file] == (run / "adapter" / file).read_bytes()
    record = json.loads((run / "adapter" / "reflora.json").read_text())
    assert Path(record["base"]["path"]).is_absolute()
    record["base"]["path"] = None
    assert json.loads(fake.files["reflora.json"]) == record
    assert len(fake.messages) == 1
    assert outcome.json["url"] == "https://huggingface.co/me/model"


def test_a_pushed_adapter_is_read_like_the_run_s(
    run: Path, recipe: Path, reflora: Reflora, hub: Callable[..., Hub], tmp_path: Path
) -> None:
    fake = hub()
    assert reflora("push", run, "me/model").status == 0
    (tmp_path / "down").mkdir()
    for name, content in fake.files.items():
        (tmp_path / "down" / name).write_bytes(content)
    found = reflora("eval", recipe, "--adapter", tmp_path / "down", "--json")
    assert found.status == 0, found.err
    assert found.json["scores"] == reflora("eval", run, "--json").json["scores"]


def test_a_merged_model_goes_up(run: Path, reflora: Reflora, hub: Callable[..., Hub]) -> None:
    fake = hub()
    assert reflora("merge", run).status == 0
    outcome = reflora("push", run, "me/model", "--what", "merged", "--json")
    assert outcome.status == 0, outcome.err
    assert fake.files == {file.name: file.read_bytes() for file in (run / "merged").iterdir()}
    assert not any("private path" in warning for warning in outcome.json["warnings"])


def test_an_older_run_gets_its_card(run: Path, reflora: Reflora, hub: Callable[..., Hub]) -> None:
    expected = (run / "adapter" / "README.md").read_bytes()
    (run / "adapter" / "README.md").unlink()
    fake = hub()
    assert reflora("push", run, "me/model").status == 0
    assert fake.files["README.md"] == expected
    assert not (run / "adapter" / "README.md").exists()


@pytest.mark.parametrize(
    "name", ["a/b/c", "me/--model", "me/mod..el", "me/model.git", "https://huggingface.co/me/model", "me/a b", "", "/x"]
)
def test_a_name_that_no_repository_can_have(name: str, run: Path, reflora: Reflora, hub: Callable[..., Hub]) -> None:
    fake = hub()
    for option in (("--dry-run",), ()):
        outcome = reflora("push", run, name, *option)
        assert (outcome.status, "OWNER/NAME" in outcome.err, "REPO" in outcome.err) == (2, True, True), outcome.err
    assert fake.created == []


@pytest.mark.parametrize(
    "name",
    ["a", "me/model", "me/m-o_d.el-1", "_a/b_", "-a", "a-", "me/.a", "a." * 50, "a" * 96, "a" * 97, "a/b/c", "x.git"],
)
def test_names_are_those_that_the_hub_s_library_takes(name: str) -> None:
    def taken(check: Callable[[str], None]) -> bool:
        try:
            check(name)
        except (errors.HFValidationError, InputError):
            return False
        return True

    assert taken(check_repository) == taken(validate_repo_id)


def test_what_is_not_there_cannot_go_up(run: Path, reflora: Reflora, hub: Callable[..., Hub], tmp_path: Path) -> None:
    fake = hub()
    merged = reflora("push", run, "me/model", "--what", "merged")
    assert (merged.status, f"reflora merge {run}" in " ".join(merged.err.split())) == (2, True), merged.err
    nowhere = reflora("push", tmp_path / "nowhere", "me/model")
    assert (nowhere.status, "the run directory does not exist" in nowhere.err) == (2, True)
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"damaged")
    damaged = reflora("push", run, "me/model", "--dry-run")
    assert (damaged.status, "damaged" in damaged.err) == (2, True)
    shutil.rmtree(run / "adapter")
    assert reflora("push", run, "me/model").status == 2
    assert fake.created == []


def test_a_private_upload_never_goes_to_a_public_repository(
    run: Path, reflora: Reflora, hub: Callable[..., Hub]
) -> None:
    fake = hub(public=True)
    outcome = reflora("push", run, "me/model", "--private")
    assert (outcome.status, "is public" in outcome.err, fake.files) == (2, True, {})


def refused(status: int) -> Callable[[], Exception]:
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return lambda: errors.HfHubHTTPError(f"{status} Client Error", response=response)


class ConnectError(Exception):
    """The HTTP library's name of an error; which library that is varies."""


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        (refused(401), ("logged in", "hf auth login")),
        (lambda: errors.LocalTokenNotFoundError("Token is required"), ("logged in", "hf auth login")),
        (refused(403), ("may not write", "hf auth login")),
        (refused(404), ("no such owner",)),
        (refused(500), ("500",)),
        (lambda: ConnectError("no route"), ("cannot be reached", "network")),
        (lambda: errors.OfflineModeIsEnabled("offline"), ("HF_HUB_OFFLINE", "unset it")),
    ],
)
def test_what_the_hub_refuses_is_one_message(
    failing: Callable[[], Exception], words: tuple[str, ...], run: Path, reflora: Reflora, hub: Callable[..., Hub]
) -> None:
    hub(failing=failing)
    outcome = reflora("push", run, "me/model")
    assert outcome.status == 2
    assert "the upload to the hub failed" in outcome.err
    assert not [word for word in words if word not in " ".join(outcome.err.split())], outcome.err
    assert "Traceback" not in outcome.err


def test_a_fault_of_ours_is_not_laid_on_the_hub(run: Path, reflora: Reflora, hub: Callable[..., Hub]) -> None:
    hub(failing=lambda: KeyError("ours"))
    outcome = reflora("push", run, "me/model")
    assert (outcome.status, "Traceback" in outcome.err) == (1, True)
