"""Tidy tables as files: JSON, CSV, Parquet; written and read back unchanged."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from costsim.errors import InputError, one_line
from costsim.inputs import files
from costsim.results.frame import COLUMNS, typed


def _values(column: pd.Series[Any]) -> list[Any]:
    """Plain values, None for NA."""
    return [None if lacks else value for value, lacks in zip(column.tolist(), column.isna(), strict=True)]


def _plain(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """The columns as plain values: integers as decimal strings, None for NA."""
    plain: dict[str, list[Any]] = {}
    for name in frame.columns:
        values = _values(frame[name])
        whole = COLUMNS.get(name) in ("count", "cost") or name not in COLUMNS
        plain[name] = [None if value is None else str(value) for value in values] if whole else values
    return plain


def _to_json(frame: pd.DataFrame) -> bytes:
    return (json.dumps(_plain(frame), allow_nan=False) + "\n").encode()


def _from_json(data: bytes) -> dict[str, list[Any]]:
    columns = json.loads(data)
    if not isinstance(columns, dict) or not all(isinstance(values, list) for values in columns.values()):
        raise ValueError("expected an object of columns")
    return columns


def _to_csv(frame: pd.DataFrame) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    plain = _plain(frame)
    writer.writerow(plain)
    writer.writerows(zip(*plain.values(), strict=True))  # None is an empty cell
    return text.getvalue().encode()


def _from_csv(data: bytes) -> dict[str, list[Any]]:
    header, *rows = [row for row in csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")) if row]
    return {name: [row[i] or None for row in rows] for i, name in enumerate(header)}


def _to_parquet(frame: pd.DataFrame) -> bytes:
    data = io.BytesIO()
    pd.DataFrame(_plain(frame), dtype=object).to_parquet(data, index=False)
    return data.getvalue()


def _from_parquet(data: bytes) -> dict[str, list[Any]]:
    table = pd.read_parquet(io.BytesIO(data))
    return {str(name): _values(table[name]) for name in table.columns}


_FILES: dict[str, tuple[Callable[[pd.DataFrame], bytes], Callable[[bytes], dict[str, list[Any]]]]] = {
    ".json": (_to_json, _from_json),
    ".csv": (_to_csv, _from_csv),
    ".parquet": (_to_parquet, _from_parquet),
}


def _by_ending(path: Path) -> tuple[Callable[[pd.DataFrame], bytes], Callable[[bytes], dict[str, list[Any]]]]:
    if path.suffix not in _FILES:
        raise InputError(f"{one_line(path)}: expected a name that ends in {', '.join(_FILES)}")
    return _FILES[path.suffix]


def save(frame: pd.DataFrame, path: Path) -> Path:
    """Write a table; the ending says how: JSON (an object of columns), CSV, Parquet (with the extra `parquet`).

    Raises InputError if it cannot be written.
    """
    write, _ = _by_ending(path)
    try:
        return files.write(path, write(frame))
    except ImportError:
        raise InputError(f"{path}: Parquet takes pyarrow: pip install 'costsim[parquet]'") from None


def read(path: Path) -> pd.DataFrame:
    """A table as it was saved. Raises InputError for a file that holds none."""
    _, parse = _by_ending(path)
    try:
        columns = parse(path.read_bytes())
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise ValueError(f"no column {missing[0]}")
        if len({len(values) for values in columns.values()}) != 1 or not columns["policy"]:
            raise ValueError("expected as many values in each column, and one row at least")
        for name, content in COLUMNS.items():
            if content in ("name", "count") and name != "layer" and None in columns[name]:
                raise ValueError(f"column {name}: a value is missing in row {columns[name].index(None) + 1}")
        return typed({name: columns[name] for name in (*COLUMNS, *(name for name in columns if name not in COLUMNS))})
    except OSError as error:
        raise InputError(f"{one_line(path)}: {error.strerror or error}") from None
    except ImportError:
        raise InputError(f"{path}: Parquet takes pyarrow: pip install 'costsim[parquet]'") from None
    except (ValueError, IndexError, TypeError, RecursionError) as error:
        raise InputError(f"{one_line(path)}: not a table of results: {one_line(error)}") from None
