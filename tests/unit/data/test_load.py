"""Where a split is found, and that every format gives the same Examples."""

from __future__ import annotations

import csv
import gzip
import json
import socket
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pytest
from pyarrow import parquet

from reflora_cli.builtin.rows import rows as builtin_rows
from reflora_cli.data.load import load_prompts, load_split
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.examples import Example
from reflora_cli.tasks.registry import find_task

COLA, RTE, STSB = find_task("glue/cola"), find_task("glue/rte"), find_task("glue/stsb")

ROWS: list[dict[str, Any]] = [
    {"sentence": "It is a house.", "label": 1, "idx": 0},
    {"sentence": "null", "label": 0, "idx": 1},
    {"sentence": "NA", "label": 1, "idx": 2},
    {"sentence": "1", "label": 0, "idx": 3},
    {"sentence": 'He said "no', "label": 1, "idx": 4},
    {"sentence": " spaces, commas; naïve 漢字 🙂 ", "label": 0, "idx": 5},
    {"sentence": "2001-01-01", "label": 1, "idx": 6},
]
FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format that the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".json":
            path.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
        case ".parquet":
            parquet.write_table(pa.Table.from_pylist(rows), path)
        case ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows(rows)
        case ".tsv":
            lines = [rows[0], *(row.values() for row in rows)]
            path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines), encoding="utf-8")
    return path


def examples(rows: list[dict[str, Any]]) -> list[Example]:
    return [Example((row["sentence"],), float(row["label"])) for row in rows]


def problem_of(task_name: str, data: str | Path, split: str = "train") -> Problem:
    with pytest.raises(InputError) as caught:
        load_split(find_task(task_name), str(data), split, None)
    return caught.value.problems[0]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_examples(tmp_path: Path, kind: str) -> None:
    file = write(tmp_path / f"train.{kind}", ROWS)
    assert load_split(COLA, str(tmp_path), "train", None) == examples(ROWS)
    assert load_split(COLA, str(file), "any split", 3) == examples(ROWS[:3])


@pytest.mark.parametrize("kind", FORMATS)
def test_class_names_stand_for_class_ids(tmp_path: Path, kind: str) -> None:
    named = [{**row, "label": COLA.label_names[row["label"]]} for row in ROWS]
    file = write(tmp_path / f"train.{kind}", named)
    assert load_split(COLA, str(file), "train", None) == examples(ROWS)


def test_a_column_of_dates_stays_text(tmp_path: Path) -> None:
    rows = [{"sentence": "2001-01-01", "label": 1}]
    assert load_split(COLA, str(write(tmp_path / "train.jsonl", rows)), "train", None) == examples(rows)


@pytest.mark.parametrize("kind", FORMATS)
def test_empty_text_is_a_text(tmp_path: Path, kind: str) -> None:
    """QQP has empty questions."""
    rows = [{"sentence": "", "label": 1}, {"sentence": "Good.", "label": 0}]
    assert load_split(COLA, str(write(tmp_path / f"train.{kind}", rows)), "train", None) == examples(rows)


def test_pairs_and_real_labels(tmp_path: Path) -> None:
    rows = [{"sentence1": "a", "sentence2": "b", "label": 2.5}, {"sentence1": "c", "sentence2": "d", "label": 5.0}]
    for kind in FORMATS:
        file = write(tmp_path / f"train.{kind}", rows)
        assert load_split(STSB, str(file), "train", None) == [Example(("a", "b"), 2.5), Example(("c", "d"), 5.0)]


def test_folder_of_tasks(tmp_path: Path) -> None:
    write(tmp_path / "cola" / "validation.csv", ROWS)
    assert load_split(COLA, str(tmp_path), "validation", None) == examples(ROWS)


def test_mark_before_utf8_and_windows_line_ends(tmp_path: Path) -> None:
    for kind, text in (("csv", "sentence,label\r\nGood.,1\r\n"), ("jsonl", '{"sentence": "Good.", "label": 1}\r\n')):
        (tmp_path / f"train.{kind}").write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert load_split(COLA, str(tmp_path / f"train.{kind}"), "train", None) == [Example(("Good.",), 1.0)]


DOCUMENT = "word " * 40_000
SPREADSHEETS = {
    "long cell.csv": f"sentence,label\n{DOCUMENT},1\n",
    "long cell.tsv": f"sentence\tlabel\n{DOCUMENT}\t1\n",
    "blanks.csv": f" sentence , label \n{DOCUMENT},1\n",
    "blanks and quotes.csv": f'"sentence", "label"\r\n"{DOCUMENT}", "1"\r\n',
    "capitals.csv": f"Sentence,LABEL,Label 2\n{DOCUMENT},1,0\n",
    "semicolons.csv": f'"sentence";"label"\r\n"{DOCUMENT}";"1"\r\n',
    "its separator said.csv": f"sep=;\r\nsentence;label\r\n{DOCUMENT};1\r\n",
    "tabs.csv": f'sentence\tlabel\n"{DOCUMENT}"\t1\n',
    "quotes.tsv": f'"sentence"\t"label"\n"{DOCUMENT}"\t"1"\n',
    "commas.tsv": f'sentence,label\n"{DOCUMENT}",1\n',
    "old line ends.csv": f"sentence,label\r{DOCUMENT},1\r",
}


@pytest.mark.parametrize("name", SPREADSHEETS)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_as_spreadsheets_save_them(name: str, encoding: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(SPREADSHEETS[name].encode(encoding))
    assert load_split(COLA, str(file), "train", None) == [Example((DOCUMENT,), 1.0)]


def test_a_quote_is_a_letter_in_a_tsv_but_not_in_a_spreadsheets(tmp_path: Path) -> None:
    text = 'sentence\tlabel\n"He said ""no"""\t1\n'
    (tmp_path / "plain.tsv").write_bytes(text.encode())
    (tmp_path / "wide.tsv").write_bytes(text.encode("utf-16"))
    assert load_split(COLA, str(tmp_path / "plain.tsv"), "train", None)[0].texts == ('"He said ""no"""',)
    assert load_split(COLA, str(tmp_path / "wide.tsv"), "train", None)[0].texts == ('He said "no"',)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "parquet"])
def test_compressed_files(kind: str, tmp_path: Path) -> None:
    plain = write(tmp_path / f"x.{kind}", ROWS)
    packed = tmp_path / "data" / f"train.{kind}.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert load_split(COLA, str(packed.parent), "train", None) == examples(ROWS)
    assert load_split(COLA, str(packed), "train", None) == examples(ROWS)
    packed.write_bytes(plain.read_bytes())  # as browsers leave it
    assert load_split(COLA, str(packed), "train", None) == examples(ROWS)


def test_path_with_pattern_letters(tmp_path: Path) -> None:
    file = write(tmp_path / "runs [1]*" / "train.csv", ROWS)
    assert load_split(COLA, str(file), "train", None) == examples(ROWS)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    file = write(tmp_path / "train.jsonl", ROWS[:5])
    assert len(load_split(COLA, str(file), "train", None)) == 5
    write(file, ROWS[:2])
    assert len(load_split(COLA, str(file), "train", None)) == 2


def test_local_files_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for kind in FORMATS:
        assert load_split(COLA, str(write(tmp_path / f"train.{kind}", ROWS)), "train", None) == examples(ROWS)


@pytest.mark.parametrize("kind", FORMATS)
def test_loading_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    load_split(COLA, str(write(tmp_path / f"train.{kind}", ROWS)), "train", None)
    (tmp_path / f"broken.{kind}").write_bytes(b'{"sentence": \xff')
    problem_of("glue/cola", tmp_path / f"broken.{kind}")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("data", ["hub", "builtin"])
def test_builtin_rows(data: str) -> None:
    task = find_task("builtin/entailment")
    rows = builtin_rows("entailment", "validation")
    loaded = load_split(task, data, "validation", None)
    assert loaded == [Example((str(row["premise"]), str(row["hypothesis"])), float(str(row["label"]))) for row in rows]
    assert load_split(task, data, "validation", 4) == loaded[:4]
    assert "validation" in problem_of("builtin/entailment", data, "validaton").remedy


def test_task_without_builtin_rows() -> None:
    assert "no built-in rows" in problem_of("glue/rte", "builtin").what


def test_hub_out_of_reach_is_answered_with_a_folder() -> None:
    problem = problem_of("glue/rte", "hub")
    assert "cannot be loaded from the hub" in problem.what
    assert "task.data=DIR" in problem.remedy


def test_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub would give, put in place of the hub."""
    import datasets

    labels = datasets.ClassLabel(names=list(RTE.label_names))
    kinds = datasets.Features({"sentence1": datasets.Value("string"), "sentence2": datasets.Value("string")})
    data = {"sentence1": ["a", "c"], "sentence2": ["b", "d"], "label": [1, -1]}
    split = datasets.Dataset.from_dict(data, features=datasets.Features(label=labels, **kinds))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(train=split))
    assert load_split(RTE, "hub", "train", 1) == [Example(("a", "b"), 1.0)]
    assert "unlabelled" in problem_of("glue/rte", "hub").what
    assert problem_of("glue/rte", "hub", "trian").remedy == "did you mean 'train'?"


def test_hub_rows_of_another_layout_are_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our test split is the hub's validation split, whose labels are known."""
    import datasets

    boolq = find_task("commonsense/boolq")
    assert isinstance(boolq, PromptTask)
    data = {"question": ["is salt a rock", "is tea red"], "passage": ["x", "y"], "answer": [True, False]}
    asked: list[object] = []

    def load_dataset(*arguments: object) -> datasets.DatasetDict:
        asked.extend(arguments)
        return datasets.DatasetDict(validation=datasets.Dataset.from_dict(data))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    first, second = load_prompts(boolq, "hub", "test", None)
    assert asked == ["google/boolq", None]
    assert (first.label, second.label) == ("true", "false")
    assert "question: is salt a rock?" in first.prompt
    data["answer"] = ["yes", "no"]
    data.pop("question")
    with pytest.raises(InputError, match="'question' is missing"):
        load_prompts(boolq, "hub", "test", None)


def test_hidden_labels_of_the_hub_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    hellaswag = find_task("commonsense/hellaswag")
    assert isinstance(hellaswag, PromptTask)
    data = {"activity_label": ["Tea"], "ctx": ["She"], "endings": [["a", "b", "c", "d"]], "label": [""]}
    split = datasets.Dataset.from_dict(data)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(validation=split))
    with pytest.raises(InputError, match="row 1"):
        load_prompts(hellaswag, "hub", "test", None)


def test_missing_path(tmp_path: Path) -> None:
    problem = problem_of("glue/cola", tmp_path / "nowhere")
    assert problem.found.endswith("nowhere")
    assert "exists" in problem.expected
    assert problem_of("glue/cola", "~nobody-of-that-name/x").found


def test_missing_split_lists_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ROWS)
    write(tmp_path / "cola" / "validatoin.jsonl", ROWS)
    problem = problem_of("glue/cola", tmp_path, "validation")
    assert problem.found == "train.csv, cola/validatoin.jsonl"
    assert "validatoin" in problem.remedy
    assert "validation.EXT" in problem.expected
    assert problem_of("glue/rte", tmp_path / "cola").what == "there is no file for split 'train'"


def test_ambiguous_split_names_both(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ROWS)
    write(tmp_path / "cola" / "train.jsonl", ROWS)
    assert problem_of("glue/cola", tmp_path).found == "train.csv and cola/train.jsonl"


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "train.xlsx").write_text("")
    problem = problem_of("glue/cola", tmp_path / "train.xlsx")
    assert problem.found == ".xlsx"
    assert "jsonl, json, csv, tsv, parquet" in problem.expected
    assert "as CSV" in problem.remedy


@pytest.mark.parametrize("limit", [1, 3, 4, 9, 10, None])
def test_of_parquet_only_the_row_groups_with_the_first_rows_are_read(limit: int | None, tmp_path: Path) -> None:
    """Row groups of three rows; what is behind those that are wanted may be damaged."""
    rows = [{"sentence": f"text {index}", "label": index % 2} for index in range(10)]
    path = tmp_path / "train.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=3, compression="zstd")
    expected = examples(rows)[:limit]
    assert load_split(COLA, str(path), "train", limit) == expected
    if limit is None or limit > 3:
        return
    group = parquet.ParquetFile(path).metadata.row_group(1)
    columns = [group.column(index) for index in range(group.num_columns)]
    begin, size = columns[0].dictionary_page_offset, sum(own.total_compressed_size for own in columns)
    data = path.read_bytes()
    path.write_bytes(data[:begin] + bytes(size) + data[begin + size :])
    assert load_split(COLA, str(path), "train", limit) == expected
    with pytest.raises(InputError, match="cannot be read as parquet"):
        load_split(COLA, str(path), "train", 4)
