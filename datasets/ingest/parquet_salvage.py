"""Rows of a Parquet file whose writer died before it wrote the footer.

The footer says where each column of each row group begins; without it no reader opens the file. The pages themselves
are whole: each has a header with its size and how many values it holds. So the pages are walked through in order and
dealt to the columns of the schema, which is known from `info.json` or from another table of the data set. A row group
is complete where every column has all its values. From these a footer is written, and Arrow reads the rest.

Layout of the Apache Parquet format specification (parquet.thrift).
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robot_rl.datasets.ingest.arrow import MAGIC, clear_arrow_errors
from robot_rl.datasets.ingest.thrift import I64, LIST, STRUCT, Struct, ThriftReader, Value, write_struct
from robot_rl.errors import InputError

LARGEST_FILE = 4 << 30  # bytes; it is read into memory
LARGEST_PAGE = 1 << 28
LARGEST_VALUES = 1 << 31
MOST_CHANNELS = 1 << 20  # of a column
WIDTHS = {1: 4, 2: 8, 4: 4, 5: 8}  # bytes of the physical types int32, int64, float, double
PLAIN = (0, 2)  # encodings of values one after the other
CODECS = ("snappy", "zstd", "gzip", "lz4_raw", "brotli")
DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # PageType
# Field numbers of parquet.thrift.
PAGE_TYPE, PAGE_RAW_BYTES, PAGE_BYTES = 1, 2, 3
PAGE_ABOUT = {DATA: 5, DICTIONARY: 7, DATA_V2: 8}
FILE_ROWS, FILE_GROUPS = 3, 4
GROUP_COLUMNS, GROUP_BYTES, GROUP_ROWS = 1, 2, 3
CHUNK_OFFSET, CHUNK_META = 2, 3
META_KEPT = (1, 2, 3, 4)  # type, encodings, path, codec
META_TYPE = 1
META_VALUES, META_RAW_BYTES, META_BYTES, META_DATA_OFFSET, META_DICTIONARY_OFFSET = 5, 6, 7, 9, 11


@dataclass(frozen=True, kw_only=True)
class Salvaged:
    """A file in memory, with a footer."""

    source: pa.BufferReader
    groups: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class _Page:
    offset: int
    type: int
    values: int
    encoding: int
    bytes: int  # with the header
    raw_bytes: int  # with the header, decompressed
    body: int  # offset of what is compressed


def salvage(path: Path, schema: pa.Schema, shapes: Mapping[str, Sequence[int]]) -> Salvaged:
    """Complete row groups of a file without a footer.

    Args:
        path: of the file.
        schema: of its columns, in their order.
        shapes: of a row of each column, for lists.

    Raises:
        InputError: there is no complete row group, or its columns are not those of the schema.
    """
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise InputError(f"{path} has no footer, and is too large to look for its rows")
    data = path.read_bytes()
    pages = _pages(data)
    if not pages:
        raise InputError(f"{path} has no footer and no page of data: its writer was stopped at once")
    with clear_arrow_errors(path):
        codec = _codec(data, pages)
        template, widths, dictionaries, types = _template(schema, shapes, codec)
        groups = _groups(pages, widths, dictionaries)
        if any(
            not _fits(page, type)
            for group in groups
            for chunk, type in zip(group, types, strict=True)
            for page in chunk
        ):
            raise InputError(f"{path} has no footer, and its numbers take other space than those of info.json would")
        if not groups:
            raise InputError(
                f"{path} has no footer, and its {len(pages)} pages are no complete rows of {', '.join(schema.names)}"
            )
        end = max(page.offset + page.bytes for group in groups for pages_ in group for page in pages_)
        footer = _footer(template, groups, widths)
        whole = data[:end] + footer + len(footer).to_bytes(4, "little") + MAGIC
    rows = sum(_values(group[0]) // widths[0] for group in groups)
    return Salvaged(source=pa.BufferReader(whole), groups=len(groups), rows=rows)


def _pages(data: bytes) -> list[_Page]:
    """All whole pages from the start of the file."""
    reader = ThriftReader(memoryview(data), len(MAGIC))
    pages: list[_Page] = []
    while reader.position < len(data):
        offset = reader.position
        try:
            header = reader.struct()
            page = _page(header, offset, reader.position)
        except (InputError, KeyError, TypeError, AttributeError):  # the end of what was written
            break
        if page is None or page.offset + page.bytes > len(data):
            break
        pages.append(page)
        reader.position = page.offset + page.bytes
    return pages


def _page(header: Struct, offset: int, body: int) -> _Page | None:
    type, raw, size = (header[field].value for field in (PAGE_TYPE, PAGE_RAW_BYTES, PAGE_BYTES))
    if type not in (DATA, DICTIONARY, DATA_V2) or not 0 <= size <= LARGEST_PAGE or not 0 <= raw <= LARGEST_PAGE:
        return None
    about = header[PAGE_ABOUT[type]].value
    values, encoding = about[1].value, about[4 if type == DATA_V2 else 2].value
    if not 0 <= values < LARGEST_VALUES:
        return None
    head = body - offset
    return _Page(
        offset=offset,
        type=type,
        values=values,
        encoding=encoding,
        bytes=size + head,
        raw_bytes=raw + head,
        body=body,
    )


def _codec(data: bytes, pages: Sequence[_Page]) -> str:
    """The compression, by trying it on the first page."""
    if all(page.bytes == page.raw_bytes for page in pages):
        return "none"
    page = next(page for page in pages if page.type != DATA_V2)
    body, raw = data[page.body : page.offset + page.bytes], page.raw_bytes - (page.body - page.offset)
    for codec in CODECS:
        try:
            if len(pa.decompress(body, decompressed_size=raw, codec=codec)) == raw:
                return codec
        except (pa.ArrowException, OSError, ValueError):
            continue
    raise InputError("no footer, and the compression of its pages is unknown")


def _template(
    schema: pa.Schema, shapes: Mapping[str, Sequence[int]], codec: str
) -> tuple[Struct, list[int], list[bool], list[int]]:
    """The footer of a file of one row; for each leaf of the columns: values a row, if it has a dictionary, its type."""
    if any(math.prod(shape) > MOST_CHANNELS for shape in shapes.values()):
        raise InputError(f"no footer, and a column of more than {MOST_CHANNELS} numbers a row")
    sink = pa.BufferOutputStream()
    rows = [pa.array([_filler(field.type, shapes.get(field.name, ()))], field.type) for field in schema]
    pq.write_table(pa.Table.from_arrays(rows, schema=schema), sink, compression=codec)
    data = sink.getvalue().to_pybytes()
    size = int.from_bytes(data[-8:-4], "little")
    footer = ThriftReader(memoryview(data), len(data) - 8 - size).struct()
    columns = footer[FILE_GROUPS].value[1][0][GROUP_COLUMNS].value[1]
    metas = [column[CHUNK_META].value for column in columns]
    return (
        footer,
        [meta[META_VALUES].value for meta in metas],
        [META_DICTIONARY_OFFSET in meta for meta in metas],
        [meta[META_TYPE].value for meta in metas],
    )


def _filler(type: pa.DataType, shape: Sequence[int]) -> Any:
    """A value of a type."""
    if pa.types.is_struct(type):
        return {type.field(i).name: _filler(type.field(i).type, ()) for i in range(type.num_fields)}
    if pa.types.is_fixed_size_list(type):
        return [_filler(type.value_type, shape[1:])] * type.list_size
    if pa.types.is_list(type) or pa.types.is_large_list(type):
        return [_filler(type.value_type, shape[1:])] * (shape[0] if shape else 1)
    if pa.types.is_string(type) or pa.types.is_large_string(type):
        return ""
    if pa.types.is_binary(type) or pa.types.is_large_binary(type):
        return b""
    return False if pa.types.is_boolean(type) else 0


def _groups(pages: Sequence[_Page], widths: Sequence[int], dictionaries: Sequence[bool]) -> list[list[list[_Page]]]:
    """Pages by column, of every complete row group from the start."""
    groups = []
    start = 0
    while start < len(pages):
        found = _group(pages, start, widths, dictionaries)
        if found is None:
            break
        start, group = found
        groups.append(group)
    return groups


def _group(
    pages: Sequence[_Page], start: int, widths: Sequence[int], dictionaries: Sequence[bool]
) -> tuple[int, list[list[_Page]]] | None:
    """The row group that begins at a page: its number of rows is where the first column may end, tried in order."""
    for stop in range(start + 1, len(pages) + 1):
        if stop > start + 1 and pages[stop - 1].type == DICTIONARY:
            return None  # the second column has begun, and no number of rows fitted
        first = list(pages[start:stop])
        values = _values(first)
        if values == 0 or values % widths[0] or not _begins(first, dictionaries[0]):
            continue
        rows, position, group = values // widths[0], stop, [first]
        for width, dictionary in zip(widths[1:], dictionaries[1:], strict=True):
            chunk: list[_Page] = []
            while position < len(pages) and _values(chunk) < rows * width:
                chunk.append(pages[position])
                position += 1
            if _values(chunk) != rows * width or not _begins(chunk, dictionary):
                break
            group.append(chunk)
        else:
            return position, group
    return None


def _begins(chunk: Sequence[_Page], dictionary: bool) -> bool:
    """Whether a dictionary stands where one belongs: first, or (a writer may leave it away) nowhere."""
    types = [page.type for page in chunk]
    return DICTIONARY not in types[1:] and (dictionary or DICTIONARY not in types)


def _fits(page: _Page, type: int) -> bool:
    """Whether the values of a page take the space of their type, where that is fixed; float could pass for double."""
    if type not in WIDTHS or page.encoding not in PLAIN:
        return True
    spare = page.raw_bytes - (page.body - page.offset) - page.values * WIDTHS[type]
    return spare == 0 if page.type == DICTIONARY else 0 <= spare <= page.values // 2 + 64  # levels of repetition


def _values(chunk: Sequence[_Page]) -> int:
    return sum(page.values for page in chunk if page.type != DICTIONARY)


def _footer(template: Struct, groups: Sequence[Sequence[Sequence[_Page]]], widths: Sequence[int]) -> bytes:
    footer = copy.deepcopy(template)
    model = footer[FILE_GROUPS].value[1][0]
    made = []
    for group in groups:
        columns = []
        for column, pages in zip(model[GROUP_COLUMNS].value[1], group, strict=True):
            old = column[CHUNK_META].value
            meta: Struct = {field: old[field] for field in META_KEPT}
            data = next(page for page in pages if page.type != DICTIONARY)
            numbers = {
                META_VALUES: _values(pages),
                META_RAW_BYTES: sum(page.raw_bytes for page in pages),
                META_BYTES: sum(page.bytes for page in pages),
                META_DATA_OFFSET: data.offset,
            }
            if pages[0].type == DICTIONARY:
                numbers[META_DICTIONARY_OFFSET] = pages[0].offset
            meta |= {field: Value(I64, number) for field, number in numbers.items()}
            columns.append({CHUNK_OFFSET: Value(I64, pages[0].offset), CHUNK_META: Value(STRUCT, meta)})
        rows = _values(group[0]) // widths[0]
        total = sum(page.raw_bytes for pages in group for page in pages)
        made.append(
            {
                GROUP_COLUMNS: Value(LIST, (STRUCT, columns)),
                GROUP_BYTES: Value(I64, total),
                GROUP_ROWS: Value(I64, rows),
            }
        )
    footer[FILE_ROWS] = Value(I64, sum(group[GROUP_ROWS].value for group in made))
    footer[FILE_GROUPS] = Value(LIST, (STRUCT, made))
    return write_struct(footer)
