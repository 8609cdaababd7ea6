"""One file over HTTP, on from where an earlier connection broke off, with a bar on a terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from seemore_fast.system.terminal import Screen

TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as gone."""

_TRIES = 4  # connections for one file, each going on where the last broke off
_CHUNK = 4096  # bytes; less than one of them is lost where a connection breaks
_LARGEST = 1 << 28  # bytes; SeemoRe-L has 4 MB


def download(place: str, path: Path, name: str) -> None:
    """Into ``path``, on from what it holds.

    Raises requests' exceptions or ValueError where it does not become whole, OSError where it cannot be kept.
    """
    import requests
    from pooch import HTTPDownloader

    for last in range(_TRIES):
        with closing(_Part(path)) as part:
            headers = {"Accept-Encoding": "identity"}
            if part.first:
                headers["Range"] = f"bytes={part.first}-"
            hooks = {"response": part.begin}
            held = part.size()
            try:
                with _bar(name) as bar:
                    HTTPDownloader(bar, chunk_size=_CHUNK, timeout=TIMEOUT, headers=headers, hooks=hooks)(
                        place, part, None
                    )
                if part.is_whole():
                    return
            except _AnotherFile:
                part.empty()
            except requests.HTTPError as error:
                if error.response.status_code != 416 or not part.first:
                    raise
                part.empty()  # it is longer than the server's: of another file
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                if part.size() == held or last == _TRIES - 1:  # no byte came
                    raise
    raise ValueError(f"broken off after {part.path.stat().st_size} of {part.whole or '?'} bytes")


class _AnotherFile(Exception):
    """What a server sends does not go on from what we hold: it has to be fetched from its beginning."""


class _Part:
    """The file that a download goes into, on from what it holds.

    The last chunk that it holds is asked for again, so that another file is found out: servers change theirs,
    and the next place may never have had this one.  As that file could be the same there, only archives are
    gone on with, whose checksums would show a mixture.
    """

    def __init__(self, path: Path):
        path.touch()
        self.path = path
        self._file = path.open("r+b")
        if self._file.read(4) != b"PK\3\4":
            self.empty()
        self.first = max(0, self.size() - _CHUNK)  # byte to ask for
        self.whole: int | None = None  # bytes, where the server says so
        self._again = b""  # what must come first

    def close(self) -> None:
        self._file.close()

    def size(self) -> int:
        return self._file.seek(0, os.SEEK_END)

    def is_whole(self) -> bool:
        """After an answer that came to its end."""
        if self._again:  # what we hold is longer than the server's
            raise _AnotherFile
        return self.whole is None or self.size() >= self.whole

    def empty(self) -> None:
        self._file.truncate(0)

    def begin(self, response: Any, *_: Any, **__: Any) -> None:
        """Before the body of an answer.  Raises ValueError for what cannot be weights."""
        if not response.ok or response.is_redirect:
            return
        if "html" in response.headers.get("content-type", ""):
            raise ValueError("it answers with a web page instead of weights")
        first, self.whole = _span(response, self.first)
        if first not in (0, self.first):
            raise _AnotherFile
        if self.whole is not None and self.whole > _LARGEST:
            raise ValueError(f"{self.whole} bytes are too many for these weights")
        if not first:  # the server does not know how to go on
            self.empty()
        self._file.seek(first)
        self._again = self._file.read()
        self._file.seek(first)

    def write(self, chunk: bytes) -> int:
        known = self._again[: len(chunk)]
        if not chunk.startswith(known):
            raise _AnotherFile
        self._again = self._again[len(known) :]
        if self._file.tell() + len(chunk) > _LARGEST:  # a server need not say how much it sends
            self.empty()
            raise ValueError(f"it sends more than {_LARGEST} bytes, too many for these weights")
        return self._file.write(chunk)

    def flush(self) -> None:  # pooch does, after every chunk
        self._file.flush()


def _span(response: Any, asked: int) -> tuple[int, int | None]:
    """The first byte that an answer has, and how many the whole file has, as far as it says."""
    length = response.headers.get("content-length")
    if length is not None and not length.isdecimal():
        raise ValueError(f"it says that it sends {length[:20]!r} bytes")
    size = None if length is None else int(length)
    if response.status_code != 206:
        return 0, size
    if (told := response.headers.get("content-range")) is None:
        return asked, None if size is None else asked + size
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", told.strip())
    if not found:
        raise _AnotherFile
    return int(found[1]), None if found[2] == "*" else int(found[2])


def reason(error: Exception) -> str:
    """One line without the addresses and object names of nested exceptions."""
    import requests

    if isinstance(error, requests.HTTPError):
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.Timeout) or "Read timed out" in str(error):  # some within a ConnectionError
        return f"no answer for {TIMEOUT:g} seconds"
    said = {
        requests.exceptions.ProxyError: "the proxy does not let it through",
        requests.exceptions.SSLError: "its certificate is not accepted",
        requests.ConnectionError: "no connection",
        requests.TooManyRedirects: "it redirects without end",
        requests.exceptions.InvalidSchema: "it redirects to what is not http",
        requests.exceptions.InvalidURL: "no valid address",
        requests.RequestException: "the connection broke",
    }
    return next((text for kind, text in said.items() if isinstance(error, kind)), str(error).split("\n")[0])


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
