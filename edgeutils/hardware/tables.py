"""Delimited text, block by block: hours of samples are read in bounded memory.

Arrow parses the numbers. A last line that was torn when the recording was killed is left out; any
other line that Arrow rejects is searched for, so that the message names it.
"""

import bisect
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from edgeutils import EdgeError
from edgeutils.hardware.trace import require

#: Larger files are refused, unpacked size for a gzip: 100 million rows or 5 hours at 5 kHz.
MOST_BYTES = 4 * 2**30
#: Larger logs and reports, which are read whole, are refused.
_MOST_WHOLE_BYTES = 2**28
#: Bytes that are parsed at a time; with 32 MiB the allocator made it slower by half.
BLOCK_BYTES = 16 * 2**20
#: Format and header are told from the first bytes of a file.
_HEAD_BYTES = 2**16
_HEADER_LINES = 20
_TOO_LARGE = (
    f"the file is larger than {MOST_BYTES >> 30} GiB, the most that is read at once; cut it into "
    "parts or lower the sampling rate"
)
Stream = io.BufferedReader | gzip.GzipFile
#: Name of a column for the reader: (its index, what it holds). A `stamp` is a whole number where
#: all of a block are whole, a `number` a double; `text` is text.
Wanted = Mapping[str, tuple[int, str]]


@dataclass(frozen=True)
class Layout:
    """How a table is laid out in its file."""

    header: tuple[str, ...]  # names of the columns as written, blanks and quotes removed
    delimiter: str
    decimal: str  # what stands before the decimals: a point or a comma
    line: int  # number of the line with the header, from 1
    start: int  # bytes before the first row


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file in every error, and turn those of a damaged one into an EdgeError."""
    try:
        yield
    except EdgeError as error:
        shown = "".join(c if c.isprintable() else " " for c in str(error))
        raise EdgeError(f"{path}: {shown}") from None
    except (EOFError, OSError, zlib.error) as error:
        raise EdgeError(f"{path}: the file cannot be read ({error}); copy it again") from None


def opened(path: Path) -> Stream:
    """Open a file, or the gzip of one, for reading; EdgeError if it is missing or too large."""
    require(path.is_file(), "the file does not exist")
    require(path.stat().st_size <= MOST_BYTES, _TOO_LARGE)
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")


def head_of(path: Path) -> bytes:
    """First bytes of a file, by which its format is told."""
    with opened(path) as stream:
        return stream.read(_HEAD_BYTES)


def bytes_of(path: Path) -> bytes:
    """Whole content of a log or a report; EdgeError if it is too long to be one."""
    with opened(path) as stream:
        content = stream.read(_MOST_WHOLE_BYTES + 1)
    require(len(content) <= _MOST_WHOLE_BYTES, "such a file should have less than 256 MiB")
    return content


def find_layout(head: bytes, rate: Callable[[tuple[str, ...]], int], expected: str) -> Layout:
    """Find the header among the first lines: the line and delimiter that `rate` likes best.

    `rate` counts the columns it knows, 0 for a line that is no header. EdgeError, with what was
    `expected`, if there is none.
    """
    start, lines = 0, head.splitlines(keepends=True)
    for number, raw in enumerate(lines[:_HEADER_LINES], start=1):
        start += len(raw)
        cells = {d: _cells(raw, d) for d in ",;\t|"}
        best = max(cells, key=lambda d: rate(cells[d]))
        if rate(cells[best]):
            comma = best != "," and b"," in head[start:] and b"." not in head[start:]
            return Layout(cells[best], best, "," if comma else ".", number, start)
    first = repr(_cells(lines[0][:80], "\0")[0]) if lines else "nothing"
    raise EdgeError(f"expected {expected}; found {'no text' if bytes(1) in head else first}")


def blocks_of(
    path: Path, layout: Layout, wanted: Wanted
) -> Iterator[tuple[dict[str, NDArray], bool]]:
    """Go through a table in blocks of rows: the columns asked for, and whether a line was torn.

    EdgeError: a line that is cut off or holds no finite number, no row at all, a file that is too
    large. A last line that is cut off is left out, which the flag tells.
    """
    rows = 0
    with opened(path) as stream:
        stream.seek(layout.start)
        for block, last in _blocks(stream):
            columns, torn = _parse(block, layout, wanted), False
            if columns is None and last:
                before = bytes(block).rstrip().rfind(b"\n") + 1
                columns, torn = _parse(block[:before], layout, wanted), True
            if columns is None:
                number, why = _bad_line(block, layout, wanted)
                line = layout.line + rows + number
                raise EdgeError(f"line {line} is cut off or {why}; remove it or record again")
            rows += min(map(len, columns.values()))
            require(rows > 0, "the file holds no row of data; record it again")
            yield columns, torn


def table_of(path: Path, layout: Layout, wanted: Wanted) -> tuple[dict[str, NDArray], bool]:
    """Read a table as a whole; see `blocks_of`."""
    blocks, torn = zip(*blocks_of(path, layout, wanted), strict=True)
    return {name: np.concatenate([b[name] for b in blocks]) for name in wanted}, any(torn)


def _cells(line: bytes, delimiter: str) -> tuple[str, ...]:
    text = line.decode("utf-8", errors="replace").strip("\r\n")
    return tuple(cell.strip(' "\ufeff') for cell in text.split(delimiter))


def _blocks(stream: Stream) -> Iterator[tuple[memoryview, bool]]:
    """Blocks of whole lines, good until the next one is asked for, and whether it is the last."""
    room = bytearray(2 * BLOCK_BYTES)
    view, kept, size, last = memoryview(room), 0, 0, False
    while not last:
        fresh = stream.readinto(view[kept : kept + BLOCK_BYTES])
        size, end, last = size + fresh, kept + fresh, fresh < BLOCK_BYTES
        require(size <= MOST_BYTES, _TOO_LARGE)
        cut = end if last else room.rfind(b"\n", 0, end) + 1
        require(cut > kept or last, "a line is longer than any of a table")
        yield view[:cut], last
        kept = end - cut
        view[:kept] = view[cut:end]


def _parse(block: memoryview, layout: Layout, wanted: Wanted) -> dict[str, NDArray] | None:
    """Arrays of the columns; None if a line does not hold what it should."""
    if not len(block):
        return {name: np.empty(0) for name in wanted}
    read = csv.ReadOptions(column_names=[str(index) for index in range(len(layout.header))])
    for stamp in (pa.int64(), pa.float64()):
        kinds = {"stamp": stamp, "number": pa.float64(), "text": pa.string()}
        types = {str(index): kinds[kind] for index, kind in wanted.values()}
        convert = csv.ConvertOptions(
            include_columns=list(types), column_types=types, decimal_point=layout.decimal
        )
        split = csv.ParseOptions(delimiter=layout.delimiter)
        try:
            table = csv.read_csv(pa.BufferReader(pa.py_buffer(block)), read, split, convert)
        except pa.ArrowException:
            continue
        arrays = [column.to_numpy() for column in table.columns]
        if all(a.dtype.kind != "f" or np.isfinite(a).all() for a in arrays):
            return dict(zip(wanted, arrays, strict=True))
    return None


def _bad_line(block: memoryview, layout: Layout, wanted: Wanted) -> tuple[int, str]:
    """Find the first line with which a block cannot be parsed: its number from 1, and why."""
    lines = bytes(block).splitlines(keepends=True)
    ends = list(accumulate(map(len, lines)))
    index = bisect.bisect_left(ends, True, key=lambda e: _parse(block[:e], layout, wanted) is None)
    cells, width = _cells(lines[index], layout.delimiter), len(layout.header)
    if len(cells) == width:
        return index + 1, "no number"
    return index + 1, f"no row: {len(cells)} cells, {width} in the header"
