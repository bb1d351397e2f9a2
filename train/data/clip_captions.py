"""What is said of each clip: in a ``.txt`` beside it, or in a table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from train.data.video_files import Footage

_NAMES = ("file", "path", "name", "video", "filename", "file_name", "video_path", "clip")
_CAPTIONS = ("caption", "text", "description", "prompt")


@dataclass(frozen=True, kw_only=True)
class Captions:
    """A caption for each clip by its name, and a sentence for each thing that could not be used."""

    of: Mapping[str, str]
    said: tuple[str, ...] = ()


def captions_beside(footage: Iterable[Footage]) -> Captions:
    """``walk.txt`` tells of ``walk.mp4``, and of a folder ``walk`` of stills."""
    of: dict[str, str] = {}
    said: list[str] = []
    for one in footage:
        beside = one.path.with_name(one.path.name + ".txt") if one.stills else one.path.with_suffix(".txt")
        if not beside.is_file():
            continue
        try:
            of[one.name] = " ".join(beside.read_text(encoding="utf-8-sig").split())
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            said.append(f"{one.name} goes without its caption: {beside.name} cannot be read ({why})")
    return Captions(of=of, said=tuple(said))


def captions_of_table(table: Path, footage: Sequence[Footage]) -> Captions:
    """A csv, tsv or parquet table with a column that names the clip (``file``) and one that tells of it (``caption``).

    A clip is named by its path below the source, by its file's name, or by that without the suffix, as long as only
    one clip has it. Raises ValueError for a table that cannot be read or lacks a column.
    """
    columns, rows = _rows(table)
    named, told = _column(table, columns, _NAMES), _column(table, columns, _CAPTIONS)
    known: dict[str, list[str]] = {}
    for one in footage:
        path = PurePosixPath(one.name)
        for called in {one.name, path.name, str(path.with_suffix("")), path.stem}:
            known.setdefault(called, []).append(one.name)
    of: dict[str, str] = {}
    unmatched: list[str] = []
    twice: list[str] = []
    for row in rows:
        called = str(row.get(named) or "").strip().replace("\\", "/").removeprefix("./")
        meant = known.get(called, [])
        if len(meant) != 1:
            unmatched.append(called)
            continue
        caption = row.get(told)
        words = "" if caption is None or caption != caption else " ".join(str(caption).split())
        if of.setdefault(meant[0], words) != words:
            twice.append(meant[0])
    said = []
    if unmatched:
        said.append(f"{len(unmatched)} rows of {table.name} name no clip, or several: {_some(unmatched)}")
    if twice:
        said.append(f"{table.name} tells of {_some(twice)} more than once: the first counts")
    if missing := [one.name for one in footage if one.name not in of]:
        said.append(f"{len(missing)} clips have no row in {table.name}: {_some(missing)}")
    return Captions(of=of, said=tuple(said))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _rows(table: Path) -> tuple[list[str], list[dict[str, Any]]]:
    if not table.is_file():
        raise ValueError(f"there is no table of captions at {table}: name a csv or parquet file, or give none")
    try:
        if table.suffix.lower() == ".parquet":
            read = pq.read_table(table)
            return read.column_names, read.to_pylist()
        with table.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=head.count)
            reader = csv.DictReader(file, delimiter=delimiter)
            return list(reader.fieldnames or []), list(reader)
    except UnicodeDecodeError:
        raise ValueError(f"{table} is not UTF-8: save it as UTF-8 or parquet") from None
    except (OSError, csv.Error, pa.ArrowException) as error:
        raise ValueError(f"{table} cannot be read as a table ({error}): give a csv or parquet file") from error


def _column(table: Path, columns: Sequence[str], names: Sequence[str]) -> str:
    for column in columns:
        if column is not None and column.strip().lower() in names:
            return column
    raise ValueError(
        f"{table} has no column {names[0]!r}, only {', '.join(map(str, columns)) or 'none'}: "
        f"name one {', '.join(names)}"
    )
