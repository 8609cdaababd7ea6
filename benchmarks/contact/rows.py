"""Rows of results, one JSON object a line: a process that dies takes no line along that it has written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def first_line(error: Exception) -> str:
    """What a row says of an error, 200 characters at most."""
    return (str(error) or repr(error)).splitlines()[0][:200]


def append(path: Path, row: Row) -> None:
    """Written and on the disk when this returns."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Row]:
    """All whole rows; none where there is no file."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the last, cut off
            break
    return rows
