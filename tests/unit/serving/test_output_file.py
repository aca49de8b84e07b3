"""Answers on disk: continued behind the last whole line, refused where they are damaged or of something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.objectives.asking import Answer, Question
from reflora_cli.serving.output_file import check_output, output_file

QUESTIONS = [Question({"text": text}, None) for text in ("one", "two", "three")]
ANSWER = Answer({"label": "yes", "probabilities": {"yes": 1.0}}, False)
IDENTITY = {"adapter": "abc"}


def begun(path: Path) -> Path:
    """Two of three answers are there."""
    with output_file(path, IDENTITY, QUESTIONS) as file:
        file.add([2, 0], [ANSWER, Answer({"value": 0.1}, True)])
    return path.with_name(f"{path.name}.part") / "answers.jsonl"


def test_answers_are_read_back(tmp_path: Path) -> None:
    begun(tmp_path / "a.jsonl")
    with output_file(tmp_path / "a.jsonl", IDENTITY, QUESTIONS) as file:
        assert file.answers == {2: ANSWER, 0: Answer({"value": 0.1}, True)}
        assert not file.is_whole


@pytest.mark.parametrize("kept", range(4))
def test_half_a_line_is_cut_off(tmp_path: Path, kept: int) -> None:
    part = begun(tmp_path / "a.jsonl")
    lines = part.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    half = lines[kept][:-5] if kept < len(lines) else b'{"id"'
    part.write_bytes(b"".join(lines[:kept]) + half)
    with output_file(tmp_path / "a.jsonl", IDENTITY, QUESTIONS) as file:
        assert len(file.answers) == max(0, kept - 1)
        file.add([1], [ANSWER])
    with output_file(tmp_path / "a.jsonl", IDENTITY, QUESTIONS) as file:
        assert 1 in file.answers


def test_answers_of_something_else_are_refused(tmp_path: Path) -> None:
    begun(tmp_path / "a.jsonl")
    for identity, questions in (
        ({"adapter": "abd"}, QUESTIONS),
        (IDENTITY, QUESTIONS[::-1]),
        (IDENTITY, QUESTIONS[:2]),
    ):
        with (
            pytest.raises(InputError, match="other rows or of another model"),
            output_file(tmp_path / "a.jsonl", identity, questions),
        ):
            pass


@pytest.mark.parametrize("line", [b"{}\n", b'{"id": -1, "values": {}, "truncated": false}\n', b"\xff\n", b"[1]\n"])
def test_a_damaged_line_is_refused(tmp_path: Path, line: bytes) -> None:
    part = begun(tmp_path / "a.jsonl")
    part.write_bytes(part.read_bytes() + line)
    with (
        pytest.raises(InputError, match="not a prediction"),
        output_file(tmp_path / "a.jsonl", IDENTITY, QUESTIONS),
    ):
        pass


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_finished_file_is_known_again_and_nothing_else_is_left(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    part = begun(path)
    left = part.read_bytes()
    with output_file(path, IDENTITY, QUESTIONS) as file:
        file.finish([{"row": index + 1, "value": 0.5} for index in range(3)])
    assert [own.name for own in tmp_path.iterdir()] == [name]
    part.parent.mkdir()  # a process that was killed between the two steps leaves it
    part.write_bytes(left)
    with output_file(path, IDENTITY, QUESTIONS) as file:
        assert file.is_whole
    assert [own.name for own in tmp_path.iterdir()] == [name]
    with (
        pytest.raises(InputError, match="does not hold the predictions of this model"),
        output_file(path, {"adapter": "abd"}, QUESTIONS),
    ):
        pass


def test_two_processes_are_kept_apart(tmp_path: Path) -> None:
    with (
        output_file(tmp_path / "a.jsonl", IDENTITY, QUESTIONS),
        pytest.raises(InputError, match="another process"),
        output_file(tmp_path / "a.jsonl", IDENTITY, QUESTIONS),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_places_that_are_no_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "elsewhere.csv")
    for name in ("folder.csv", "link.csv", "a.txt", "a"):
        with pytest.raises(InputError):
            check_output(tmp_path / name)
    check_output(tmp_path / "a.JSONL")
