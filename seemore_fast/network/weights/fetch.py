"""Known weights from where they lie to the user's cache: once, whole, checked, converted to our format.

The SHA-256 of what came the first time is remembered; another file under the same name is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from seemore_fast.errors import CheckpointError
from seemore_fast.network import checkpoint
from seemore_fast.network.weights.catalogue import Known, is_address
from seemore_fast.system import folders
from seemore_fast.system.atomic import write_text
from seemore_fast.system.terminal import Screen

log = logging.getLogger(__name__)

TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as gone."""

_TRIES = 4  # connections for one file, each going on where the last broke off
_CHUNK = 4096  # bytes; less than one of them is lost where a connection breaks
_LARGEST = 1 << 28  # bytes; SeemoRe-L has 4 MB


def cached(entry: Known) -> Path | None:
    """Where the converted weights lie once they have been fetched; None for users without a home."""
    folder = folders.of_user("cache")
    return folder and folder / "weights" / f"{entry.name}.safetensors"


def sha256(entry: Known) -> str | None:
    """Of the file that was fetched first under this name; None before."""
    return _remembered().get(entry.name, {}).get("fetched")


def fetch(entry: Known) -> Path:
    """The cached file, fetched if it is not there.

    Raises CheckpointError where it cannot be fetched or stored, is not this network's, or is another file
    than the first time.
    """
    target = cached(entry)
    if target is None:
        raise CheckpointError(
            f"{entry.name}: there is no home folder to keep it in: set HOME; or download {_address(entry)} "
            "and give that file"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):  # of two processes, one fetches
            if not target.is_file():
                _fetch(entry, target)
            elif _hash(target) != _remembered().get(entry.name, {}).get("stored"):
                raise CheckpointError(
                    f"{target}: not the file that was stored there; delete it to fetch {entry.name} anew"
                )
    except OSError as error:
        raise CheckpointError(
            f"{entry.name}: cannot be kept in {target.parent} ({error.strerror or error}); "
            f"download {_address(entry)} and give that file"
        ) from None
    return target


def _fetch(entry: Known, target: Path) -> None:
    if not entry.places:
        raise CheckpointError(
            f"{entry.name}: must be downloaded by hand, from {entry.by_hand}; then give it by --model FILE"
        )
    part = target.with_suffix(".part")
    faults = []
    for place in _places(entry):
        try:
            _download(place, part, entry.name)
        except (OSError, ValueError) as error:  # requests' own are OSErrors
            faults.append(f"{urlsplit(place).netloc}: {_reason(error)}")
            continue
        return _accept(entry, place, part, target)
    raise CheckpointError(
        f"{entry.name}: cannot be fetched ({'; '.join(faults)}); run it again to go on, or download "
        f"{_address(entry)} by hand and give that file"
    )


def _places(entry: Known) -> list[str]:
    mirror = os.environ.get("SEEMORE_WEIGHTS_URL")
    if not mirror:
        return entry.places
    if not is_address(place := f"{mirror.rstrip('/')}/{entry.places[0].rsplit('/', 1)[1]}"):
        raise CheckpointError(
            f"SEEMORE_WEIGHTS_URL={mirror}: must begin with http:// or https:// and name a server"
        )
    return [place]


def _address(entry: Known) -> str:
    return entry.places[0] if entry.places else entry.by_hand


def _download(place: str, part: Path, name: str) -> None:
    """Into ``part``, on from what it holds.  Raises OSError or ValueError where it does not become whole."""
    import requests
    from pooch import HTTPDownloader

    whole: list[int] = []
    for last in range(_TRIES):
        with _Limited(part, "ab") as file:
            held = file.tell()

            def look(response: Any, *_: Any, file: io.FileIO = file, held: int = held, **__: Any) -> None:
                whole[:] = [_begin(response, file, held)] if response.ok and not response.is_redirect else []

            headers = {"Range": f"bytes={held}-", "Accept-Encoding": "identity"}
            try:
                with _bar(name) as bar:
                    HTTPDownloader(
                        bar, chunk_size=_CHUNK, timeout=TIMEOUT, headers=headers, hooks={"response": look}
                    )(place, file, None)
            except requests.HTTPError as error:
                if error.response.status_code == 416 and held:  # nothing follows: it was whole, or is another
                    return
                raise
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                if part.stat().st_size == held or last == _TRIES - 1:  # no byte came
                    raise
        if whole and part.stat().st_size >= whole[0]:
            return
    raise ValueError(f"broken off after {part.stat().st_size} of {whole[0] if whole else '?'} bytes")


class _Limited(io.FileIO):
    """Emptied, with a ValueError, where more is written than weights have: a server need not say how much it
    sends."""

    def write(self, chunk: Any) -> int:
        if self.tell() + len(chunk) > _LARGEST:
            self.truncate(0)
            raise ValueError(f"it sends more than {_LARGEST} bytes, too many for these weights")
        return super().write(chunk)


def _begin(response: Any, file: io.FileIO, held: int) -> int:
    """Where the answer's bytes go: behind those we hold, or in their place.  Returns the whole file's size.

    Raises ValueError for what cannot be weights.
    """
    if "html" in response.headers.get("content-type", ""):
        raise ValueError("it answers with a web page instead of weights")
    if response.status_code != 206 and held:  # the server does not know how to go on
        file.truncate(0)
        held = 0
    whole = held + int(response.headers.get("content-length", 0))
    if whole > _LARGEST:
        raise ValueError(f"{whole} bytes are too many for these weights")
    return whole


def _accept(entry: Known, place: str, part: Path, target: Path) -> None:
    """The download as our file, if it holds this network; else it is removed."""
    fetched, before = _hash(part), sha256(entry)
    try:
        if before not in (None, fetched):
            raise CheckpointError(f"the file has changed: SHA-256 {fetched}, before it was {before}")
        file = checkpoint.read(part)
        config = checkpoint.infer_config(file.state, **{**(file.config or {}), **entry.config})
        with_names = {"source": place, "sha256": fetched, "licence": entry.licence}
        checkpoint.save(file.state, target, config, with_names)
    except CheckpointError as error:
        part.unlink()
        raise CheckpointError(f"{entry.name}: {place}: {error}") from None
    _remember(entry.name, fetched, _hash(target))
    part.unlink()
    log.info("fetched %s from %s, SHA-256 %s", entry.name, place, fetched)


def _records() -> Path:
    """Raises OSError for users without a home."""
    folder = folders.of_user("data")
    if folder is None:
        raise FileNotFoundError("there is no home folder")
    return folder / "weights.json"


def _remembered() -> dict[str, dict[str, str]]:
    with suppress(OSError, ValueError):
        found = json.loads(_records().read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {name: value for name, value in found.items() if isinstance(value, dict)}
    return {}


def _remember(name: str, fetched: str, stored: str) -> None:
    file = _records()
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        write_text(
            file, json.dumps({**_remembered(), name: {"fetched": fetched, "stored": stored}}, indent=2)
        )


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _reason(error: Exception) -> str:
    """One line without the addresses and object names of nested exceptions."""
    import requests

    if isinstance(error, requests.HTTPError):
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return f"no answer for {TIMEOUT:g} seconds"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, requests.RequestException):
        return "the connection broke"
    return str(error).splitlines()[0]


class _Bar:
    """What pooch tells its progress to, on rich's bar."""

    def __init__(self, progress: Progress, name: str):
        self._progress, self._task = progress, progress.add_task(name, total=None)

    @property
    def total(self) -> int:
        return 0

    @total.setter
    def total(self, value: int) -> None:
        self._progress.update(self._task, total=value or None)

    def update(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        self._progress.refresh()


@contextmanager
def _bar(name: str) -> Iterator[_Bar]:
    """On standard error, where that is a terminal."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn()
    console = Screen(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _Bar(progress, name)
