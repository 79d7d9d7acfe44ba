"""Rows of problems and answers from a file, checked before anything else starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlsys.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Row:
    """One problem: `Row("train-00017", "3+4+5=", "12")`."""

    id: str
    problem: str
    answer: str


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns hold what; `id` None, or absent from the file: rows are named by their line."""

    problem: str
    answer: str
    id: str | None


def read_rows(file: str, columns: Columns, on_bad_row: str, key: str) -> list[Row]:
    """Read a JSON Lines file.

    Args:
        on_bad_row: "error" stops at the first unusable row, "skip" leaves unusable rows out.
        key: the configuration key that names the file, for the message.

    Raises:
        ConfigError: there is no such file, or it is of another kind.
        DataError: a row is unusable (file, line and field are named), or none is left.
    """
    path = Path(file)
    if not path.is_file():
        made_by = "; `rlsys world arithmetic` makes it" if "worlds/arithmetic" in file else ""
        raise ConfigError(f"{key} {file!r}: no such file{made_by}")
    if path.suffix != ".jsonl":
        raise ConfigError(f"{key} {file!r}: expected a .jsonl file (one JSON object per line)")
    rows, seen, skipped = [], set(), []
    for number, line in _numbered_lines(path):
        try:
            row = _parse(line, columns, f"{path}:{number}", default_id=f"{path.stem}-{number}")
            if row.id in seen:
                raise DataError(f"{path}:{number}: field {columns.id!r}: {row.id!r} stands on an earlier row too")
        except DataError as error:
            if on_bad_row == "error":
                raise
            skipped.append(str(error))
            continue
        seen.add(row.id)
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: no usable row" + (f"; the first: {skipped[0]}" if skipped else ""))
    if skipped:
        num_rows = len(skipped) + len(rows)
        print(f"{key}: {len(skipped)} of {num_rows} rows left out; the first: {skipped[0]}", flush=True)  # noqa: T201
    return rows


def _numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line


def _parse(line: bytes, columns: Columns, where: str, default_id: str) -> Row:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        raise DataError(f"{where}: not UTF-8 text") from None
    except (ValueError, RecursionError) as error:  # not JSON, or JSON beyond what a number or a nesting may be
        raise DataError(f"{where}: not valid JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(record).__name__}")
    row_id = record.get(columns.id) if columns.id else None
    return Row(
        default_id if row_id is None else str(row_id),
        _text(record, columns.problem, where),
        _text(record, columns.answer, where),
    )


def _text(record: dict[str, Any], column: str, where: str) -> str:
    if column not in record:
        raise DataError(f"{where}: no field {column!r}; the row has {', '.join(map(repr, record))}")
    value = record[column]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field {column!r} is empty or not text: {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: field {column!r} holds half a character (a lone surrogate)") from None
    return value
