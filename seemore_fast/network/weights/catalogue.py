"""The table of weights that can be had by name (``known.yml``), and what a user adds to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from seemore_fast.errors import CheckpointError, SeemoreError
from seemore_fast.network import variants
from seemore_fast.system import folders

_TABLE = Path(__file__).with_name("known.yml")
_FIELDS = {"places", "by_hand", "variant", "config", "licence", "set5"}


@dataclass(frozen=True)
class Known:
    """Weights that lie elsewhere; ``config`` holds the constructor's arguments, ``set5`` dB or None."""

    name: str
    config: dict[str, Any]
    places: list[str] = field(default_factory=list)
    by_hand: str = ""
    licence: str = "not stated"
    set5: float | None = None


def users_table() -> Path | None:
    """Where the user's own table is looked for, whether it is there or not; None for users without a home."""
    folder = folders.of_user("config")
    return folder and folder / "weights.yml"


def known() -> dict[str, Known]:
    """Every entry by name, the user's above ours.  Raises CheckpointError for a table that is none."""
    entries = _read(_TABLE)
    own = users_table()
    return {**entries, **_read(own)} if own and own.is_file() else entries


def _read(path: Path) -> dict[str, Known]:
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(table, dict):
        raise CheckpointError(f"{path}: must map names to entries, as {_TABLE.name} of the package does")
    return {str(name): _entry(path, str(name), value) for name, value in table.items()}


def _entry(path: Path, name: str, value: Any) -> Known:
    where = f"{path}: {name}"
    if not isinstance(value, dict) or not set(value) <= _FIELDS:
        raise CheckpointError(f"{where}: an entry has {', '.join(sorted(_FIELDS))} and nothing else")
    if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or ":" in name:
        raise CheckpointError(f"{where}: a name is made of words between slashes")
    places = value.get("places", [])
    if not isinstance(places, list) or not all(is_address(place) for place in places):
        raise CheckpointError(f"{where}: places must be a list of http or https addresses of files")
    if ("variant" in value) == ("config" in value):
        raise CheckpointError(f"{where}: needs either variant or config")
    try:
        config = variants.config(str(value["variant"])) if "variant" in value else dict(value["config"])
        set5 = None if value.get("set5") is None else float(value["set5"])
    except (SeemoreError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from None
    texts = {key: str(value[key]) for key in ("by_hand", "licence") if key in value}
    return Known(name, config, places, set5=set5, **texts)


def is_address(place: Any) -> bool:
    """Whether ``place`` may be fetched from: an http or https address that does not end as a folder's."""
    if not isinstance(place, str):
        return False
    try:
        parts = urlsplit(place)
    except ValueError:  # [ without ]
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc) and not parts.path.endswith("/")
