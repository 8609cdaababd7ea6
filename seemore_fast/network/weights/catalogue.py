"""The table of weights that can be had by name (``known.yml``), and what a user adds to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from seemore_fast.errors import CheckpointError, SeemoreError
from seemore_fast.network import variants
from seemore_fast.network.weights.bundled import CARDS
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
    if not own or not own.is_file():
        return entries
    users = _read(own)
    if taken := users.keys() & CARDS.keys():
        raise CheckpointError(f"{own}: {min(taken)} is a name of bundled weights; give yours another")
    return {**entries, **users}


def _read(path: Path) -> dict[str, Known]:
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise CheckpointError(f"{path}: cannot be read ({line}{error.problem})") from None
    except Exception as error:  # what date(), int() and their like raise for a value goes through PyYAML
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read ({said})") from None
    if table is None:  # nothing but comments
        return {}
    if not isinstance(table, dict):
        raise CheckpointError(f"{path}: must map names to entries, as {_TABLE.name} of the package does")
    return {str(name): _entry(path, str(name), value) for name, value in table.items()}


def _entry(path: Path, name: str, value: Any) -> Known:
    if not name.isprintable():
        raise CheckpointError(f"{path}: {name!r}: a name is made of printable letters")
    where = f"{path}: {name}"
    if not isinstance(value, dict) or not set(value) <= _FIELDS:
        raise CheckpointError(f"{where}: an entry has {', '.join(sorted(_FIELDS))} and nothing else")
    if any(part in ("", ".", "..") for part in name.split("/")) or re.search(r"[\\:]", name):
        raise CheckpointError(f"{where}: a name is made of words between slashes")
    if len(name.encode()) > 100:  # so that file systems take it
        raise CheckpointError(f"{path}: {name[:30]}...: a name has 100 bytes at most")
    texts = {key: str(value[key]) for key in ("by_hand", "licence") if value.get(key) is not None}
    if not all(text.isprintable() for text in texts.values()):
        raise CheckpointError(f"{where}: by_hand and licence must be of printable letters")
    config = _config(where, value)
    try:
        set5 = None if value.get("set5") is None else float(value["set5"])
    except (TypeError, ValueError, OverflowError):
        raise CheckpointError(f"{where}: set5 must be a number, of dB") from None
    places = value.get("places", [])
    if not isinstance(places, list) or not all(is_address(place) for place in places):
        raise CheckpointError(f"{where}: places must be a list of http or https addresses of files")
    if not places and not texts.get("by_hand"):
        raise CheckpointError(f"{where}: needs places, or by_hand that says where a person finds it")
    return Known(name, config, places, set5=set5, **texts)


def _config(where: str, value: dict[str, Any]) -> dict[str, Any]:
    if ("variant" in value) == ("config" in value):
        raise CheckpointError(f"{where}: needs either variant or config")
    if "variant" in value:
        try:
            return variants.config(str(value["variant"]))
        except SeemoreError as error:
            raise CheckpointError(f"{where}: {error}") from None
    config = value["config"]
    arguments = {*variants.config("t-x4"), "mean"}
    if not isinstance(config, dict) or not config.keys() <= arguments or type(config.get("scale")) is not int:
        raise CheckpointError(
            f"{where}: config needs scale, a whole number, and may have {', '.join(sorted(arguments))}"
        )
    return dict(config)


def is_address(place: Any) -> bool:
    """Whether ``place`` may be fetched from: an http or https address whose path ends in a file's name."""
    if not isinstance(place, str) or not place.isprintable():
        return False
    try:
        parts = urlsplit(place)
        port = parts.port
    except ValueError:  # [ without ], a port that is no number of 16 bits
        return False
    named = bool(parts.hostname) and bool(parts.path) and not parts.path.endswith("/")
    return parts.scheme in ("http", "https") and named and port != 0
