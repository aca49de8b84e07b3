"""Every fault that a data file can have is told with its row, and no other exception ever comes out."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from reflora_cli.data.load import load_prompts, load_split
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.examples import Example
from reflora_cli.tasks.registry import find_task

COLA = find_task("glue/cola")
GOOD = '{"sentence": "Good.", "label": 1}\n'


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def fresh(folder: Path, kind: str, content: str | bytes) -> Path:
    path = folder / f"train.{kind}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


def problems(path: Path, task: str = "glue/cola", limit: int | None = None) -> tuple[Problem, ...]:
    with pytest.raises(InputError) as caught:
        load_split(find_task(task), str(path), "train", limit)
    return caught.value.problems


# kind of file, content; then the problem: part of what, end of where, part of found
FAULTS: list[tuple[str, str | bytes, str, str, str]] = [
    ("jsonl", GOOD + '{"sentence": "Bad", "label"\n' + GOOD, "not valid JSON", ", row 2", "label"),
    ("jsonl", GOOD + "null\n", "not an object", ", row 2", "NoneType"),
    ("jsonl", GOOD + "[1]\n", "not an object", ", row 2", "type list"),
    (
        "json",
        '[{"sentence": "a", "label": 1},\n {"sentence" "b"}]',
        "not valid JSON",
        ", line 2, column 14",
        "sentence",
    ),
    ("json", f"[{GOOD.strip()}, 7]", "not an object", ", row 2", "type int"),
    ("json", '{"rows": []}', "'sentence' is missing", ".json", "rows"),
    ("jsonl", GOOD + '{"sentence": null, "label": 1}\n', "'sentence' is missing", ", row 2", "nothing"),
    ("jsonl", GOOD + '{"label": 1}\n', "'sentence' is missing", ", row 2", "nothing"),
    ("jsonl", GOOD + '{"sentence": 5, "label": 1}\n', "'sentence' is not a text", ", row 2", "5, of type int"),
    ("jsonl", '{"sentence": ["a"], "label": 1}\n', "'sentence' is not a text", ", row 1", "type list"),
    ("jsonl", GOOD + '{"sentence": "\\ud800", "label": 1}\n', "not valid Unicode", ", row 2", "\\ud800"),
    ("jsonl", GOOD + '{"sentence": "Good."}\n', "'label' is missing", ", row 2", "nothing"),
    ("jsonl", GOOD + '{"sentence": "Good.", "label": 2}\n', "'label' is out of range", ", row 2", "2"),
    ("jsonl", '{"sentence": "Good.", "label": 0.5}\n', "neither a class id nor a class name", ", row 1", "0.5"),
    ("jsonl", '{"sentence": "Good.", "label": true}\n', "neither a class id nor a class name", ", row 1", "True"),
    ("jsonl", '{"sentence": "Good.", "label": [1]}\n', "neither a class id nor a class name", ", row 1", "[1]"),
    ("jsonl", '{"sentence": "Good.", "label": %s}' % ("9" * 400), "neither a class id", ", row 1", "999"),
    ("jsonl", '{"sentence": "Good.", "label": %s}' % ("9" * 5000), "cannot be read", ", row 1", "digits"),
    ("jsonl", '{"sentence": "Good.", "label": %s}' % ("[" * 99999), "cannot be read", ", row 1", "recursion"),
    ("jsonl", GOOD + '{"label": 1, "sentence": "Good.", "label": 0}\n', "twice in one object", ", row 2", "'label'"),
    ("json", '[{"sentence": "a",\n "label": 1,\n "label": 0}]', "twice in one object", ", line 3", "'label'"),
    ("csv", "sentence,label\nGood.,1\nBad.,acceptible\n", "neither a class id", ", row 2", "acceptible"),
    ("csv", "sentence,label\nGood.,1\nBad.,\n", "'label' is missing", ", row 2", "nothing"),
    ("csv", "label,sentence\n1,Good.\n0\n", "another number of cells", ", row 2", "1"),
    ("csv", "sentence,label\nGood, or not.,1\n", "another number of cells", ", row 1", "3"),
    ("csv", "sentence,label\nGood.,1\nBad, or not.,1\n", "another number of cells", ", row 2", "3"),
    ("csv", 'sentence,label\nGood.,1\n"Bad.,1\n', "the row cannot be read", ", row 2", "unexpected end"),
    ("csv", "sentence,label,label\nGood.,1,1\n", "named twice", ", header", "label"),
    ("csv", b"sentence,label\nna\xefve,1\n", "not UTF-8", ", line 2", "0xef"),
    ("csv", "sentence,label\nGood.,1\n".encode("utf-16-le"), "not UTF-8", ", line 1", "0x00"),
    ("csv", "sentence,label\nGood.,1\n".encode("utf-32"), "not UTF-8", ", line 1", "0xff"),
    ("csv", "sentence,Label,LABEL\nGood.,1,1\n", "named twice", ", header", "label"),
    ("csv", gzip.compress(b"sentence,label\nGood.,1\n")[:-5], "cannot be decompressed", ".csv", "ended"),
    ("jsonl", GOOD.encode() + b'{"sentence": "\xff", "label": 1}\n', "not UTF-8", ", line 2", "0xff"),
    ("tsv", "sentence\tlabel\nGood.\t1\t\n", "another number of cells", ", row 1", "3"),
    ("parquet", "PAR1 no more", "cannot be read as parquet", ".parquet", "Parquet"),
    ("jsonl", "", "no rows", ".jsonl", ""),
    ("json", "[]", "no rows", ".json", ""),
    ("csv", "", "no rows", ".csv", ""),
    ("csv", "sentence,label\n", "no rows", ".csv", ""),
]


@pytest.mark.parametrize(
    ("kind", "content", "what", "row", "found"),
    FAULTS,
    ids=[f"{index} {kind} {what}" for index, (kind, _, what, *_) in enumerate(FAULTS)],
)
def test_fault_is_told_with_its_row(
    folder: Path, kind: str, content: str | bytes, what: str, row: str, found: str
) -> None:
    first = problems(fresh(folder, kind, content))[0]
    assert what in first.what
    assert first.where.endswith(row)
    assert found in first.found
    assert first.expected


def test_missing_columns_are_all_told(folder: Path) -> None:
    first, second = problems(fresh(folder, "csv", "sentense,target\nGood.,1\n"))
    assert (first.what, first.found) == ("column 'sentence' is missing", "sentense, target")
    assert "'sentense'" in first.remedy
    assert (second.what, second.remedy) == ("column 'label' is missing", "")


@pytest.mark.parametrize(
    ("name", "header", "row", "proposed"),
    [
        ("glue/rte", "sentence1,label", "Good.,1", ""),  # to rename the one would leave the other missing
        ("glue/cola", "sentences,labels", "Good.,1", "'sentences' 'labels'"),
        ("glue/cola", "sentences,labels", "Good.,excellent", ""),
        ("commonsense/boolq", "questions,output,answer", "Is it?,the correct answer is true,true", ""),
        ("commonsense/boolq", "instructions,output,answer", "Answer format: a/b,is a,a", "'instructions'"),
    ],
)
def test_a_name_is_proposed_only_where_the_row_is_accepted_then(
    name: str, header: str, row: str, proposed: str, folder: Path
) -> None:
    task, file = find_task(name), fresh(folder, "csv", f"{header}\n{row}\n")
    load = load_split if isinstance(task, SequenceTask) else load_prompts
    with pytest.raises(InputError) as caught:
        load(task, str(file), "train", None)  # type: ignore[arg-type]
    said = [problem.remedy for problem in caught.value.problems]
    assert " ".join(remedy.split()[3].rstrip("?") for remedy in said if remedy) == proposed


def test_range_names_the_classes(folder: Path) -> None:
    (problem,) = problems(fresh(folder, "csv", "sentence,label\nGood.,7\n"))
    assert problem.expected == "0 to 1, or a name (0 unacceptable, 1 acceptable)"


def test_near_class_name_is_proposed(folder: Path) -> None:
    (problem,) = problems(fresh(folder, "csv", "sentence,label\nGood.,Acceptable\n"))
    assert "'acceptable'" in problem.remedy


def test_hidden_labels_are_counted_once(folder: Path) -> None:
    rows = "".join(f'{{"sentence": "Good.", "label": {label}}}\n' for label in (-1, 1, -1))
    (problem,) = problems(fresh(folder, "jsonl", rows))
    assert "unlabelled" in problem.what
    assert problem.found == "label -1 in 2 of 3 rows"
    assert "validation" in problem.remedy


@pytest.mark.parametrize(
    ("label", "what"),
    [("NaN", "not a finite number"), ("Infinity", "not a finite"), ("5.5", "out of range"), ('"x"', "not a finite")],
)
def test_real_label_must_be_finite_and_in_range(folder: Path, label: str, what: str) -> None:
    row = '{"sentence1": "a", "sentence2": "b", "label": %s}\n'
    path = fresh(folder, "jsonl", row % "0.5" + row % label)
    (problem,) = problems(path, "glue/stsb")
    assert what in problem.what
    assert problem.where.endswith(", row 2")
    assert problem.expected == "a number from 0 to 5"


def test_hidden_real_labels(folder: Path) -> None:
    path = fresh(folder, "jsonl", '{"sentence1": "a", "sentence2": "b", "label": -1.0}\n')
    assert "unlabelled" in problems(path, "glue/stsb")[0].what


def test_first_bad_rows_are_shown_and_all_counted(folder: Path) -> None:
    bad = '{"sentence": "Bad.", "label": 9}\n'
    found = problems(fresh(folder, "jsonl", GOOD + 5 * bad + GOOD))
    assert [problem.where.rpartition(" ")[2] for problem in found[:3]] == ["2", "3", "4"]
    assert found[3].what.startswith("5 of 7 rows are bad")
    assert len(found) == 4


def test_rows_beyond_the_limit_are_not_read(folder: Path) -> None:
    for bad in ('{"sentence": 1, "label": 1}\n', "{broken\n"):
        path = fresh(folder, "jsonl", GOOD + bad)
        assert load_split(COLA, str(path), "train", 1) == [Example(("Good.",), 1.0)]
        assert problems(path, limit=2)


def test_parquet_of_other_types(folder: Path) -> None:
    path = folder / "times.parquet"
    parquet.write_table(pa.table({"sentence": pa.array([0], pa.timestamp("s")), "label": [1]}), path)
    assert "type datetime" in problems(path)[0].found
    path = folder / "compact.parquet"
    words = pa.array(["Good.", "Bad."]).dictionary_encode()
    parquet.write_table(pa.table({"sentence": words, "label": pa.array([1, 0], pa.int8())}), path)
    assert load_split(COLA, str(path), "train", None) == [Example(("Good.",), 1.0), Example(("Bad.",), 0.0)]


cells = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["null", "NA", '"', "a\tb", "2001-01-01", "1", "a\nb", "\ufeff", "\x00", "\x85"]),
)
labels = st.one_of(
    st.integers(-2, 3), st.floats(), st.none(), st.booleans(), st.sampled_from(["acceptable", "1", " 0"])
)
lines = st.one_of(
    st.fixed_dictionaries({"sentence": cells, "label": labels}).map(json.dumps),
    st.dictionaries(st.sampled_from(["sentence", "label", "x"]), st.one_of(cells, labels, st.lists(cells))).map(
        json.dumps
    ),
    st.text(max_size=10),
    st.sampled_from(["{", "}", "[", "", "{}", "null", '{"sentence": "a", "label": 1}' * 2]),
)
records = st.lists(st.one_of(cells, labels.map(str)), max_size=4).map(",".join)


def loads_or_refuses(path: Path) -> None:
    """Anything but Examples or an InputError fails the test by itself."""
    with suppress(InputError):
        examples = load_split(COLA, str(path), "train", None)
        assert examples
        assert all(isinstance(text, str) for example in examples for text in example.texts)
        assert {example.label for example in examples} <= {0.0, 1.0}


relaxed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@relaxed
@given(st.lists(lines, max_size=4), st.sampled_from(["jsonl", "json"]), st.booleans())
def test_any_json_file_loads_or_is_refused(folder: Path, rows: list[str], kind: str, as_list: bool) -> None:
    loads_or_refuses(fresh(folder, kind, f"[{','.join(rows)}]" if as_list else "\n".join(rows)))


@relaxed
@given(st.lists(records, max_size=4), st.sampled_from(["csv", "tsv"]), st.booleans())
def test_any_delimited_file_loads_or_is_refused(folder: Path, rows: list[str], kind: str, header: bool) -> None:
    text = "\n".join(["sentence,label", *rows] if header else rows)
    loads_or_refuses(fresh(folder, kind, text.replace(",", "\t") if kind == "tsv" else text))


@relaxed
@given(st.binary(max_size=60), st.sampled_from(["jsonl", "json", "csv", "tsv", "parquet"]))
def test_any_bytes_load_or_are_refused(folder: Path, content: bytes, kind: str) -> None:
    loads_or_refuses(fresh(folder, kind, content))


plain_cells = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@relaxed
@given(st.lists(st.tuples(plain_cells, st.integers(0, 1)), min_size=1, max_size=5))
def test_any_text_comes_back_as_it_was_written(folder: Path, rows: list[tuple[str, int]]) -> None:
    expected = [Example((text,), float(label)) for text, label in rows]
    lines = "".join(json.dumps({"sentence": text, "label": label}, ensure_ascii=False) + "\n" for text, label in rows)
    quoted = "".join('"{}",{}\n'.format(text.replace('"', '""'), label) for text, label in rows)
    table = pa.table({"sentence": [text for text, _ in rows], "label": [label for _, label in rows]})
    columns = folder / "any.parquet"
    parquet.write_table(table, columns)
    for path in (fresh(folder, "jsonl", lines), fresh(folder, "csv", f"sentence,label\n{quoted}"), columns):
        assert load_split(COLA, str(path), "train", None) == expected
