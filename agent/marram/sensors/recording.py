"""A recording in a CSV file as blocks of rows, read in bounded memory.

What may come in: .csv or .csv.gz with a header row, one row a line (a quoted cell ends on its line, so that
an open quote spoils one row and not all that follow). Whole blocks are parsed at once; a block that does not
parse so is read again row by row, which finds the broken rows and understands quotes.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from marram.errors import SensorEndedError, SensorError
from marram.sensors.fields import PER_SECOND, MalformedError, TimeUnit, parse_time

_BLOCK = 1 << 18
_PROBE = 100
_UNREADABLE = (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error)


@dataclass(frozen=True, slots=True)
class Rows:
    """time: float64 (n,) as recorded. values: float32 (channels, n). labels: str (n,) or None."""

    time: NDArray[np.float64]
    values: NDArray[np.float32]
    labels: NDArray[np.str_] | None


class Recording:
    """One CSV file and how its columns are to be read.

    columns: channel to column; empty for every numeric column besides time and label. time: column of the
    time stamps; ``rate``, where given, stands for a recording without one. skip_broken: count broken rows
    instead of raising. Raises SensorError.
    """

    def __init__(
        self,
        path: Path,
        *,
        columns: Mapping[str, str],
        time: str,
        time_unit: TimeUnit,
        rate: float | None,
        label: str | None,
        delimiter: str,
        skip_broken: bool,
    ) -> None:
        self.counters = {"rows": 0, "malformed": 0}
        self._path = path
        self._delimiter = delimiter
        self._unit: TimeUnit = time_unit
        self._rate = rate
        self._skip_broken = skip_broken
        header, probe = self._head()
        self._width = len(header)
        self._time = None if rate is not None else self._index(header, time, "time")
        self._label = None if label is None else self._index(header, label, "label")
        if not columns:
            taken = (self._time, self._label, header.index(time) if time in header else None)
            columns = {
                name: name for i, name in enumerate(header) if i not in taken and _numeric(probe, i) and name
            }
        if not columns:
            raise SensorError(f"{path}: no numeric column: name the columns in `columns`")
        self._columns = [self._index(header, column, channel) for channel, column in columns.items()]
        self.channels = tuple(columns)

    def blocks(self) -> Iterator[Rows]:
        """The rows from the first to the last. Raises SensorEndedError."""
        number, total = 2, 0
        try:
            with self._open() as file:
                next(csv.reader(file, delimiter=self._delimiter), None)
                while lines := file.readlines(_BLOCK):
                    rows = self._fast(lines)
                    if rows is None:
                        rows = self._slow(lines, number)
                    if self._rate is not None:
                        rows = Rows(
                            (total + np.arange(rows.time.size)) / self._rate, rows.values, rows.labels
                        )
                    number += len(lines)
                    total += rows.time.size
                    self.counters["rows"] += rows.time.size
                    if rows.time.size:
                        yield rows
        except _UNREADABLE as error:
            raise SensorEndedError(f"{self._path}:{number}: the recording cannot be read: {error}") from error

    def _open(self) -> TextIO:
        if self._path.suffix == ".gz":
            return gzip.open(self._path, "rt", encoding="utf-8-sig", newline="")
        return self._path.open(encoding="utf-8-sig", newline="")

    def _head(self) -> tuple[list[str], list[list[str]]]:
        try:
            with self._open() as file:
                header = [name.strip() for name in next(csv.reader(file, delimiter=self._delimiter), [])]
                lines = itertools.islice(file, _PROBE)
                probe = [cells for line in lines for cells in csv.reader([line], delimiter=self._delimiter)]
        except _UNREADABLE as error:
            raise SensorError(f"{self._path}: the recording cannot be read: {error}") from error
        if not header:
            raise SensorError(f"{self._path}: the file is empty: expected a header row")
        return header, probe

    def _index(self, header: Sequence[str], column: str, purpose: str) -> int:
        if column not in header:
            raise SensorError(
                f"{self._path}:1: no column {column!r} for {purpose}: the file has {', '.join(header)}"
            )
        return header.index(column)

    def _fast(self, lines: list[str]) -> Rows | None:
        """The block parsed at once, or None where it is not as plain as that needs."""
        text = "".join(lines)
        delimiter = self._delimiter
        if '"' in text or any(line.count(delimiter) != self._width - 1 for line in lines):
            return None
        filled = lines
        if _has_empty_cell(text, delimiter):
            filled = _fill_empty_cells(text, delimiter).split("\n")
        wanted = list(self._columns)
        if self._time is not None and self._unit != "iso":
            wanted.insert(0, self._time)
        try:
            table = np.loadtxt(filled, delimiter=delimiter, usecols=wanted, comments=None, ndmin=2)
            time = self._times(lines, table)
        except (ValueError, MalformedError):
            return None
        if table.shape[0] != len(lines) or not np.isfinite(time).all():
            return None
        values = np.ascontiguousarray(table[:, -len(self._columns) :].T, dtype=np.float32)
        return Rows(time, values, self._labels(lines))

    def _times(self, lines: list[str], table: NDArray[np.float64]) -> NDArray[np.float64]:
        index = self._time
        if index is None:
            return np.zeros(len(lines))
        if self._unit == "iso":
            cells = (line.split(self._delimiter, index + 1)[index].strip() for line in lines)
            return np.array([parse_time(cell, "iso") for cell in cells])
        return table[:, 0] / PER_SECOND[self._unit]

    def _labels(self, lines: list[str]) -> NDArray[np.str_] | None:
        index = self._label
        if index is None:
            return None
        cells = [line.split(self._delimiter, index + 1)[index].strip() for line in lines]
        return np.array(cells, dtype=np.str_)

    def _slow(self, lines: list[str], number: int) -> Rows:
        """The block row by row; ``number`` is the line of the first."""
        times, rows, labels = [], [], []
        for place, line in enumerate(lines, number):
            if not line.strip():
                continue
            try:
                time, row, label = self._row(self._cells(line))
            except (ValueError, csv.Error) as error:
                if not self._skip_broken:
                    where = f"{self._path}:{place}"
                    raise SensorEndedError(
                        f"{where}: broken row: {error} (`broken: skip` leaves such rows out)"
                    ) from error
                self.counters["malformed"] += 1
                continue
            times.append(time)
            rows.append(row)
            labels.append(label)
        values = np.array(rows, dtype=np.float32).reshape(len(rows), len(self._columns)).T
        return Rows(
            np.array(times, dtype=np.float64),
            np.ascontiguousarray(values),
            None if self._label is None else np.array(labels, dtype=np.str_),
        )

    def _cells(self, line: str) -> list[str]:
        (cells,) = csv.reader([line], delimiter=self._delimiter, strict=True)
        return cells

    def _row(self, cells: list[str]) -> tuple[float, list[float], str]:
        if len(cells) != self._width:
            raise ValueError(f"expected {self._width} cells, found {len(cells)}")
        row = [float(cells[index]) if cells[index].strip() else math.nan for index in self._columns]
        time = 0.0
        if self._time is not None:
            cell = cells[self._time].strip()
            time = parse_time(cell if self._unit == "iso" else float(cell), self._unit)
        return time, row, "" if self._label is None else cells[self._label].strip()


def _numeric(rows: list[list[str]], index: int) -> bool:
    """Whether a column holds a number in every row where it holds anything, and does so at least once."""
    cells = [row[index].strip() for row in rows if index < len(row)]
    present = [cell for cell in cells if cell]
    try:
        for cell in present:
            float(cell)
    except ValueError:
        return False
    return bool(present)


def _has_empty_cell(text: str, delimiter: str) -> bool:
    return (
        delimiter * 2 in text
        or f"{delimiter}\n" in text
        or f"{delimiter}\r" in text
        or f"\n{delimiter}" in text
        or text.startswith(delimiter)
        or text.endswith(delimiter)
    )


def _fill_empty_cells(text: str, delimiter: str) -> str:
    mark = re.escape(delimiter)
    return re.sub(rf"(?m)(?:(?<={mark})|^)(?={mark}|\r?$)", "nan", text)
