"""The base that an adapter was trained on is found again, or is said to be lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.model.sources import find_source, weights_hash
from reflora_cli.recipe.sections import ModelSection
from reflora_cli.runs.trained_base import check_same, found_again, trained_on, unchecked


def model_in(directory: Path, weights: bytes = b"weights") -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(weights)
    return directory


def record(name: str, directory: Path) -> dict[str, Any]:
    """What a run says of the base in `directory`, which its recipe calls `name`."""
    sha256 = weights_hash(find_source(str(directory), None))
    return {"base": {"name": name, "commit": None, "sha256": sha256, "path": str(directory)}}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"base": {"name": "owner/model", "commit": "abc"}}, "abc"),
        ({"base": {"name": "owner/other", "commit": "abc"}}, None),
        ({"base": {"name": "owner/model", "commit": None}}, None),
        ({"base": {"name": "owner/model", "commit": 3, "sha256": [], "path": {}}}, None),
        ({"base": "owner/model"}, None),
        ({}, None),
    ],
)
def test_adapter_stays_on_the_commit_it_was_trained_on(said: dict[str, Any], expected: str | None) -> None:
    assert found_again(ModelSection(name="owner/model"), trained_on(said)).revision == expected


def test_asked_revision_comes_before_the_recorded_commit() -> None:
    section = ModelSection(name="owner/model", revision="v2")
    assert found_again(section, trained_on({"base": {"name": "owner/model", "commit": "abc"}})) == section


def test_local_base_is_found_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name means nothing elsewhere, a hub model, or other weights."""
    said = record("some/base", model_in(tmp_path / "some" / "base"))
    section = ModelSection(name="some/base")
    monkeypatch.chdir(tmp_path)
    assert found_again(section, trained_on(said)) == section
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    expected = str(tmp_path / "some" / "base")
    assert found_again(section, trained_on(said)).name == expected
    model_in(elsewhere / "some" / "base", b"others")
    assert found_again(section, trained_on(said)).name == expected


def test_older_records_have_the_place_from_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = model_in(tmp_path / "some" / "base")
    said = record("some/base", place)
    del said["base"]["path"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert found_again(ModelSection(name="some/base"), trained_on(said, str(place))).name == str(place)


def test_lost_base_is_never_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = model_in(tmp_path / "some" / "base")
    known = trained_on(record("some/base", place))
    moved = place.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"(?s)cannot be found.*some/base.*model\.name=PATH"):
        found_again(ModelSection(name="some/base"), known)
    named = ModelSection(name=str(moved))
    assert found_again(named, known) == named
    check_same(find_source(str(moved), None), None, known)
    (moved / "model.safetensors").write_bytes(b"others")
    with pytest.raises(InputError, match="not the one"):
        check_same(find_source(str(moved), None), None, known)
    model_in(place, b"others")
    with pytest.raises(InputError, match=r"(?s)not the one.*sha256.*model\.name=PATH"):
        found_again(ModelSection(name="some/base"), known)


def test_link_to_other_weights_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = model_in(tmp_path / "v1"), model_in(tmp_path / "v2", b"others")
    (tmp_path / "newest").symlink_to(first)
    known = trained_on(record("newest", first))
    assert found_again(ModelSection(name="newest"), known).name == "newest"
    (tmp_path / "newest").unlink()
    (tmp_path / "newest").symlink_to(second)
    assert found_again(ModelSection(name="newest"), known).name == str(first)


def test_directory_with_the_name_of_a_hub_model_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model_in(tmp_path / "owner" / "model")
    for commit in ("abc", None):  # some versions of transformers did not tell it
        said = {"base": {"name": "owner/model", "commit": commit, "sha256": ""}}
        found = found_again(ModelSection(name="owner/model"), trained_on(said))
        assert (found.name, found.revision) == ("hub:owner/model", commit)


def test_what_cannot_be_compared_is_named(tmp_path: Path) -> None:
    place = model_in(tmp_path / "base")
    section = ModelSection(name=str(place))
    assert not unchecked(section, trained_on(record("x", place)))
    assert "owner/model" in unchecked(section, trained_on({}, "owner/model"))
    older = trained_on({"base": {"name": "owner/model", "commit": None, "sha256": ""}})
    assert "not checked" in unchecked(ModelSection(name="owner/model"), older)
    assert not unchecked(ModelSection(name="x/y"), trained_on({"base": {"name": "owner/model", "commit": "abc"}}))
    assert "of the hub" in unchecked(section, trained_on({"base": {"name": "owner/model", "commit": "abc"}}))
