"""Rows from files: what is read, and how each unusable row is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlsys.data.datasets import Columns, Row, read_rows
from rlsys.errors import ConfigError, DataError

COLUMNS = Columns("problem", "answer", "id")
GOOD = '{"id": "a", "problem": "1+1=", "answer": "2"}'


def write(folder: Path, *lines: str | bytes, name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n")
    return str(path)


def read(file: str, on_bad_row: str = "error", columns: Columns = COLUMNS) -> list[Row]:
    return read_rows(file, columns, on_bad_row, "data.train")


def test_rows_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD, "", "   ", '{"problem": "\\u221a4=", "answer": 2, "id": 7, "more": null}')
    assert read(file) == [Row("a", "1+1=", "2"), Row("7", "√4=", "2")]


def test_columns_by_other_names(tmp_path: Path) -> None:
    file = write(tmp_path, '{"question": "q", "solution": "s", "id": "ignored"}')
    assert read(file, columns=Columns("question", "solution", None)) == [Row("rows-1", "q", "s")]


def test_rows_without_an_id_are_named_by_their_line(tmp_path: Path) -> None:
    nameless = '{"problem": "1+1=", "answer": "2"}'
    assert [row.id for row in read(write(tmp_path, nameless, "", nameless))] == ["rows-1", "rows-3"]


@pytest.mark.parametrize(("answer", "text"), [("12", "12"), ("-3", "-3"), ("0.5", "0.5"), ('" x "', " x ")])
def test_numbers_are_read_as_they_are_printed(tmp_path: Path, answer: str, text: str) -> None:
    [row] = read(write(tmp_path, f'{{"problem": "p", "answer": {answer}}}'))
    assert row.answer == text


BAD_ROWS = [
    ('{"problem": "p"', "not valid JSON: Expecting ',' delimiter"),
    ("[1, 2]", "expected a JSON object, found list"),
    ('{"id": "b", "answer": "2"}', "no field 'problem'; the row has 'id', 'answer'"),
    ('{"problem": "p", "answer": ""}', "field 'answer' is empty or not text: ''"),
    ('{"problem": " \\n", "answer": "2"}', "field 'problem' is empty or not text: ' \\n'"),
    ('{"problem": "p", "answer": null}', "field 'answer' is empty or not text: None"),
    ('{"problem": "p", "answer": true}', "field 'answer' is empty or not text: True"),
    ('{"problem": ["p"], "answer": "2"}', "field 'problem' is empty or not text: ['p']"),
    (GOOD, "field 'id': 'a' stands on an earlier row too"),
    ('{"problem": "p", "answer": ' + "1" * 5000 + "}", ""),  # more digits than Python turns into a number
    ("[" * 100_000, ""),  # deeper than Python's JSON reader goes
    ('{"problem": "\\ud800", "answer": "2"}', "field 'problem'"),  # half of a surrogate pair is no character
    (b'{"problem": "caf\xe9", "answer": "2"}', ""),  # Latin-1
]


@pytest.mark.parametrize(("line", "message"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_an_unusable_row_is_named_or_skipped(tmp_path: Path, line: str | bytes, message: str) -> None:
    file = write(tmp_path, GOOD, "", line)
    with pytest.raises(DataError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}:3: {message}")
    assert caught.value.exit_code == 2
    assert read(file, on_bad_row="skip") == [Row("a", "1+1=", "2")]


def test_nothing_usable_is_an_error_even_when_rows_are_skipped(tmp_path: Path) -> None:
    for file in (write(tmp_path, ""), write(tmp_path, "{}", "[]")):
        with pytest.raises(DataError, match=r"rows\.jsonl: no usable row"):
            read(file, on_bad_row="skip")


def test_files_that_are_not_there_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data\.train 'none\.jsonl': no such file$"):
        read("none.jsonl")
    with pytest.raises(ConfigError, match=r"no such file; `rlsys world arithmetic` makes it$"):
        read("worlds/arithmetic/none.jsonl")
    with pytest.raises(ConfigError, match=r"expected a \.jsonl file"):
        read(write(tmp_path, GOOD, name="rows.csv"))


def test_a_byte_order_mark_does_not_go_unseen(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=":1: not valid JSON: Unexpected UTF-8 BOM"):
        read(write(tmp_path, b"\xef\xbb\xbf" + json.dumps({"problem": "p", "answer": "1"}).encode()))
