"""Reading and writing a file at given places from any thread, and reserving its room on the disk."""

from __future__ import annotations

import os
import sys
import threading


def reserve(descriptor: int, size: int) -> None:
    """Makes the file ``size`` bytes long, on the disk, too, where the system can.  Raises OSError."""
    if sys.platform == "linux":
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


class File:
    """An open file by its descriptor; each call says where, and gives the number of bytes it has done."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._moving = threading.Lock()  # where a place can only be moved to

    def read(self, into: memoryview, at: int) -> int:
        """Fills ``into`` (bytes) from offset ``at``, perhaps not to its end.  Raises OSError."""
        if sys.platform != "win32":
            return os.preadv(self._descriptor, [into], at)
        with self._moving:
            os.lseek(self._descriptor, at, os.SEEK_SET)
            found = os.read(self._descriptor, len(into))
        into[: len(found)] = found
        return len(found)

    def write(self, values: memoryview, at: int) -> int:
        """Writes ``values`` (bytes) at offset ``at``, perhaps not to their end.  Raises OSError."""
        if sys.platform != "win32":
            return os.pwritev(self._descriptor, [values], at)
        with self._moving:
            os.lseek(self._descriptor, at, os.SEEK_SET)
            return os.write(self._descriptor, values)
