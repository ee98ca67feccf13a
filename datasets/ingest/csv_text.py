"""CSV files: what separates their cells and decimals, which of them have a header, and their columns as numbers."""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from robot_rl.datasets.ingest.arrow import clear_arrow_errors
from robot_rl.datasets.ingest.base import TableOptions
from robot_rl.datasets.ingest.table import Table
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError
from robot_rl.types import Array

DELIMITERS = ("\t", ";", "|", ",")
"""In the order of trust: with decimal commas both `;` and `,` may split every row alike."""
SAMPLE_BYTES = 1 << 16
MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "?")  # in small letters
FLAGS = ("true", "false")
WHOLE = re.compile(r"[+-]?\d+([eE][+-]?\d+)?")
POINT = re.compile(r"[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?")
COMMA = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a file is written."""

    delimiter: str
    decimal: str
    encoding: str
    skipped: int  # lines before the first row of cells: comments
    header: bool
    names: tuple[str, ...]  # of the header, or made up; empty for columns without a name


def is_csv(path: Path) -> str | None:
    """What makes a file a table: several rows of as many cells, with columns of numbers; None where it is none."""
    if not path.is_file():
        return None
    try:
        dialect = dialect_of(path, TableOptions(decimal="."))  # which it is does not matter yet
        rows = _rows(_lines(path, dialect.encoding)[dialect.skipped :], dialect.delimiter)[dialect.header :]
    except (InputError, OSError):
        return None
    if len(dialect.names) < 2 or len(rows) < 2:
        return None
    numbers = sum(_mostly_numbers([row[k] for row in rows]) for k in range(len(dialect.names)))
    if numbers == 0:
        return None
    return f"its rows have {len(dialect.names)} cells between {dialect.delimiter!r}, of numbers in {numbers} columns"


def dialect_of(path: Path, options: TableOptions) -> Dialect:
    """Find out how a file is written, from its beginning; the settings come first.

    Raises:
        InputError: it is no text, is empty, or its rows have no common number of cells.
    """
    encoding = _encoding(path)
    lines = _lines(path, encoding)
    skipped = next((number for number, line in enumerate(lines) if line and not line.startswith("#")), len(lines))
    if skipped == len(lines):
        raise InputError(f"{path} has no rows: it is empty, or all of it is comments")
    if lines[skipped].lstrip()[:1] in ("{", "[", "<"):
        raise InputError(f"{path} is no table: its first line begins with '{lines[skipped].lstrip()[:1]}'")
    body = lines[skipped:]
    delimiter = _delimiter(body, path) if options.delimiter is None else options.delimiter
    if len(delimiter) != 1:
        raise InputError(f"table.delimiter={delimiter!r} must be one character")
    rows = _rows(body, delimiter)
    decimal = _decimal(rows, delimiter, path) if options.decimal is None else options.decimal
    if decimal not in (".", ","):
        raise InputError(f"table.decimal={decimal!r} must be '.' or ','")
    first = [cell.strip() for cell in rows[0]]
    header = not any(_is_number(cell, decimal) for cell in first)
    comment = _rows([lines[skipped - 1].lstrip("# ")], delimiter)[0] if skipped and not header else []
    if header:
        names = first
    elif len(comment) == len(first):
        names = [cell.strip() for cell in comment]
    else:
        names = [f"column_{number}" for number in range(1, len(first) + 1)]
    return Dialect(
        delimiter=delimiter,
        decimal=decimal,
        encoding=encoding,
        skipped=skipped,
        header=header,
        names=tuple(names),
    )


def read_csv(path: Path, options: TableOptions) -> Table:
    """All columns of a file: numbers where all cells are, with True and False as 1 and 0, else texts.

    Raises:
        InputError: it is no table, or a row has another number of cells; names the row.
    """
    with clear_arrow_errors(path):
        dialect = dialect_of(path, options)
        names, findings = _column_names(dialect, path)
        table = _cells(path, dialect, names, findings)
        columns, texts = {}, {}
        for name in names:
            cells = pc.utf8_trim_whitespace(table.column(name))
            blank = pc.is_in(pc.utf8_lower(cells), pa.array(MISSING))
            if bool(pc.all(blank).as_py()):
                if not name.startswith("column_"):
                    text = f"column '{name}' is empty, and left out"
                    findings.append(Finding(severity="information", place=path.name, text=text))
                continue
            numbers = _numbers(pc.if_else(blank, pa.scalar(None, pa.string()), cells), dialect.decimal)
            if numbers is None:
                texts[name] = [str(cell) for cell in cells.to_pylist()]
            else:
                columns[name] = numbers
    attributes = {
        "delimiter": dialect.delimiter,
        "decimal": dialect.decimal,
        "encoding": dialect.encoding,
        "header": dialect.header,
        "columns": names,
    }
    return Table(path=path, columns=columns, texts=texts, attributes=attributes, findings=findings)


def _cells(path: Path, dialect: Dialect, names: list[str], findings: list[Finding]) -> pa.Table:
    data = path.read_bytes()
    try:
        decoded = data.decode(dialect.encoding)
        data = data if dialect.encoding == "utf-8" else decoded.encode()
    except UnicodeDecodeError as error:
        text = f"bytes from {error.start} on are no text in {dialect.encoding}, and stand as question marks"
        findings.append(Finding(severity="warning", place=path.name, text=text, remedy="check the log there"))
        data = data.decode(dialect.encoding, errors="replace").encode()
    data = data.removeprefix(b"\xef\xbb\xbf")
    odd: list[tuple[int, int, int]] = []

    def note(row: pa.csv.InvalidRow) -> str:
        odd.append((int(row.number), int(row.actual_columns), int(row.expected_columns)))
        return "skip"

    table = pa.csv.read_csv(
        pa.BufferReader(data),
        read_options=pa.csv.ReadOptions(
            use_threads=False,  # for the numbers of odd rows
            skip_rows=dialect.skipped,
            skip_rows_after_names=int(dialect.header),
            column_names=names,
            block_size=max(1 << 20, min(len(data), 1 << 24)),
        ),
        parse_options=pa.csv.ParseOptions(
            delimiter=dialect.delimiter, newlines_in_values=True, invalid_row_handler=note
        ),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
        ),
    )
    if odd:
        number, found, wanted = odd[0]
        row = number - dialect.skipped - int(dialect.header)
        if len(odd) > 1 or row != len(table) + 1 or data.endswith(b"\n"):
            raise InputError(
                f"{path}: row {row} has {found} cells, the first has {wanted} ({len(odd)} rows differ): repair the "
                "file, or set table.delimiter"
            )
        text = f"the last row, {row}, was cut off while it was written ({found} of {wanted} cells), and is left out"
        findings.append(Finding(severity="warning", place=path.name, text=text, remedy="none is needed"))
    return table


def _numbers(cells: pa.ChunkedArray, decimal: str) -> Array | None:
    """Cells as float64, NaN where there is none; None where one is no number. Shapes: (N,)."""
    there = pc.utf8_lower(cells.drop_null())
    if bool(pc.all(pc.is_in(there, pa.array(FLAGS))).as_py()):
        flags = pc.equal(pc.utf8_lower(cells), "true")
        return np.asarray(pc.cast(flags, pa.float64()).to_numpy(), np.float64)
    if decimal == ",":
        if bool(pc.any(pc.match_substring(cells, ".")).as_py()):
            return None  # points between thousands, or something else: not to be guessed
        cells = pc.replace_substring(cells, ",", ".")
    cells = pc.replace_substring_regex(cells, r"^\+", "")
    try:
        return np.asarray(pc.cast(cells, pa.float64()).to_numpy(), np.float64)
    except pa.ArrowInvalid:
        return None


def _column_names(dialect: Dialect, path: Path) -> tuple[list[str], list[Finding]]:
    """Names that differ, in the order of the columns."""
    names: list[str] = []
    findings = []
    for number, found in enumerate(dialect.names, 1):
        name = found if found else f"column_{number}"
        if name in names:
            again = next(f"{name}_{k}" for k in range(2, number + 2) if f"{name}_{k}" not in {*names, *dialect.names})
            text = f"two columns are called '{name}': the second is taken as '{again}'"
            findings.append(Finding(severity="information", place=path.name, text=text))
            name = again
        names.append(name)
    return names, findings


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(SAMPLE_BYTES)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if not head.strip():
        raise InputError(f"{path} is empty")
    if b"\0" in head:
        raise InputError(f"{path} is no text: it holds zero bytes")
    try:
        head[: head.rfind(b"\n") + 1].decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def _lines(path: Path, encoding: str) -> list[str]:
    """Whole lines at the beginning of a file."""
    with path.open("rb") as file:
        head = file.read(SAMPLE_BYTES)
    cut = len(head) == SAMPLE_BYTES
    text = head.decode(encoding, errors="replace").removeprefix("\ufeff")
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return lines[:-1] if cut and len(lines) > 1 else lines


def _rows(lines: list[str], delimiter: str) -> list[list[str]]:
    """Cells of the first lines; a last row that is cut off is left out."""
    try:
        rows = [row for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=delimiter) if row]
    except csv.Error as error:
        raise InputError(f"this is no table: {error}") from error
    if len(rows) > 2 and len(rows[-1]) != len(rows[0]):
        rows.pop()
    return rows


def _delimiter(lines: list[str], path: Path) -> str:
    for delimiter in DELIMITERS:
        rows = _rows(lines, delimiter)
        if rows and len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows):
            return delimiter
    counts = {delimiter: len(_rows(lines[:1], delimiter)[0]) for delimiter in DELIMITERS if lines}
    best = max(counts, key=lambda delimiter: counts[delimiter])
    if counts[best] < 2:
        raise InputError(f"{path}: nothing separates the cells of its first row: set table.delimiter")
    rows = _rows(lines, best)
    number = next(number for number, row in enumerate(rows) if len(row) != len(rows[0]))
    raise InputError(
        f"{path}: row {number} has {len(rows[number])} cells between {best!r}, the first row has {len(rows[0])}: "
        "repair the file, or set table.delimiter"
    )


def _decimal(rows: list[list[str]], delimiter: str, path: Path) -> str:
    cells = {cell.strip() for row in rows for cell in row}
    commas = any(COMMA.fullmatch(cell) for cell in cells)
    points = any(POINT.fullmatch(cell) for cell in cells)
    if commas and (points or delimiter == ","):  # in quotes they may be those between thousands
        raise InputError(
            f"{path} has numbers with commas{' and numbers with points' if points else ' in quotes'}: set table.decimal"
        )
    return "," if commas else "."


def _is_number(cell: str, decimal: str) -> bool:
    return bool(WHOLE.fullmatch(cell) or (COMMA if decimal == "," else POINT).fullmatch(cell))


def _mostly_numbers(cells: list[str]) -> bool:
    there = [cell.strip() for cell in cells if cell.strip().lower() not in MISSING]
    return bool(there) and sum(_is_number(cell, ".") or _is_number(cell, ",") for cell in there) > 0.9 * len(there)
