"""What the operating system tells of the machine: cores and memory for this process, the processor."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_M_ARENA_MAX = -8  # of glibc's malloc.h
_STACK = 2 << 20  # bytes


def cores() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Its name, as far as the system tells."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take.

    The least of what the machine has available, what the control groups (containers) around the process have
    left, and what its own limits (``ulimit -v``, ``-d``) leave.  ``root`` is where Linux has /proc and /sys.
    """
    return max(min([psutil.virtual_memory().available, *_left_in_groups(root), *_left_by_limits()]), 0)


def limited() -> bool:
    """Whether the process's own limits (``ulimit -v``, ``-d``) bound what it may take."""
    return bool(list(_left_by_limits()))


@contextmanager
def ordinary_threads() -> Iterator[None]:
    """Threads of this process have the scheduling of the calling one again, whatever is started inside.

    As root, SVT-AV1 gives its threads and its caller real-time priority (SCHED_FIFO), and nothing else on the
    machine gets on.
    """
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in Path("/proc/self/task").glob("*"):
            with suppress(OSError):  # it has ended
                if os.sched_getscheduler(int(thread.name)) != before[0]:
                    os.sched_setscheduler(int(thread.name), *before)


def spare_address_space() -> None:
    """Where the process's own limits bound it, has threads take less; before torch is imported.

    glibc sets 64 MB of addresses aside for each that allocates, and 8 MB for its stack.
    """
    if limited():
        os.environ.setdefault("OMP_STACKSIZE", f"{_STACK >> 10}K")
        threading.stack_size(_STACK)
        with suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def let_idle_threads_sleep() -> None:
    """Has PyTorch's threads, GNU OpenMP's, sleep after 0.1 ms without work; before torch is imported.

    By themselves they spin for milliseconds, on the cores that decoders and encoders are to run on
    (docs/performance.md, "Other threads").  Who has said how they are to wait is obeyed.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def _left_in_groups(root: Path) -> Iterator[int]:
    """For the process's control group and each one around it, of version 1 or 2: limit minus use."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / "sys/fs/cgroup" / controllers
        limit, use = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        # Inside a container the path may be that of the host: the group's files are then at the base.
        inner = base / path.lstrip("/")
        for folder in {inner, *inner.parents, base}:
            if not folder.is_relative_to(base):
                continue
            try:
                left = int((folder / f"memory.{limit}").read_text()) - int(
                    (folder / f"memory.{use}").read_text()
                )
                yield left + _droppable(folder)
            except (OSError, ValueError):  # no such group, or "max": no limit
                continue


def _droppable(folder: Path) -> int:
    """File pages that the kernel drops when memory gets short, though they count as used."""
    for line in (folder / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _left_by_limits() -> Iterator[int]:
    if sys.platform == "win32":
        return
    try:
        import resource
    except ImportError:
        return
    used = psutil.Process().memory_info()
    for limit, taken in ((resource.RLIMIT_AS, used.vms), (resource.RLIMIT_DATA, getattr(used, "data", 0))):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            yield soft - taken
