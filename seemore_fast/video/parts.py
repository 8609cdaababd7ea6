"""The side folder of a run: finished segments, and what they belong to, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import av
from filelock import FileLock, Timeout

from seemore_fast.errors import VideoError
from seemore_fast.system.atomic import write_text
from seemore_fast.video.source import Note, url

_HEAD = 1 << 20


class Parts:
    """``<output>.parts/``: ``manifest.json``, ``lock`` and segments ``000000.nut``, ``000001.nut``, ...

    A segment has its name only once it is whole.
    """

    def __init__(self, output: Path):
        self.folder = output.with_name(output.name + ".parts")
        self._manifest = self.folder / "manifest.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder and holds it for this process.  Raises VideoError if another one has it."""
        try:
            self.folder.mkdir(exist_ok=True)
            held = FileLock(self.folder / "lock").acquire(timeout=0)
        except Timeout:
            raise VideoError(f"{self.folder}: another run is at work on this output") from None
        except OSError as error:
            raise VideoError(f"{self.folder}: cannot write here ({error.strerror})") from None
        with held:
            yield

    def begin(self, identity: dict[str, Any], note: Note) -> bool:
        """Keeps earlier segments if they belong to the same job, and drops them otherwise.

        True: that job had been finished but for the removal of this folder.
        """
        try:
            earlier = json.loads(self._manifest.read_text(encoding="utf-8"))
            earlier_identity, finished = earlier["identity"], bool(earlier["finished"])
        except FileNotFoundError:
            earlier_identity, finished = None, False
        except (OSError, ValueError, KeyError, TypeError):
            earlier_identity, finished = {}, False
        for broken in self.folder.glob("*.part"):
            broken.unlink()
        if earlier_identity == identity:
            return finished
        if earlier_identity is not None:
            changed = sorted(k for k in identity if identity[k] != earlier_identity.get(k))
            note(f"starting anew: since the interrupted run, {', '.join(changed)} changed")
        for segment in self._segments():
            segment.unlink()
        self._write(identity, False)
        return False

    def finished(self, length: int) -> set[int]:
        """Numbers of the whole segments; what cannot be read, or is longer than ``length``, is dropped."""
        whole = set()
        for path in self._segments():
            if 0 < count_packets(path) <= length:
                whole.add(int(path.stem))
            else:
                path.unlink()
        return whole

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.nut"

    def unfinished(self, number: int) -> Path:
        """Where segment ``number`` is written until `keep`."""
        return self.folder / f"{number:06d}.part"

    def keep(self, number: int) -> None:
        """From now on the segment counts as finished, also after a power cut."""
        with open(self.unfinished(number), "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.unfinished(number), self.path(number))

    def remove(self, identity: dict[str, Any]) -> None:
        """After success.  Killed in here, the next run still knows that there is nothing to do."""
        self._write(identity, True)
        for segment in self._segments():
            segment.unlink()
        self._manifest.unlink()
        (self.folder / "lock").unlink()
        with suppress(
            OSError
        ):  # someone else's file is in there, or NFS keeps the open lock under another name
            self.folder.rmdir()

    def _write(self, identity: dict[str, Any], finished: bool) -> None:
        write_text(self._manifest, json.dumps({"identity": identity, "finished": finished}, indent=1) + "\n")

    def _segments(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.nut"))


def count_packets(path: Path) -> int:
    """Encoded frames in a segment; 0 if it cannot be read."""
    try:
        with av.open(url(path)) as container:
            return sum(packet.size > 0 for packet in container.demux(video=0))
    except (av.FFmpegError, OSError, IndexError):
        return 0


def file_identity(path: Path) -> dict[str, Any]:
    """What tells a file from its changed self: size, time of change, hash of its first MiB."""
    status = path.stat()
    with open(path, "rb") as file:
        head = hashlib.sha256(file.read(_HEAD)).hexdigest()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "head": head}
