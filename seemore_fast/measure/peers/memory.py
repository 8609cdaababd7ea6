"""How much memory one call takes: measured in a process of its own, where nothing else has left room.

``python -m seemore_fast.measure.peers.memory`` is that process; `peak_bytes` starts it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


def peak_bytes(module: str, arguments: Sequence[object]) -> int:
    """Memory that one call adds at its peak, its result included, to what was there before it.

    The call is what ``module``'s function ``call_of`` gives for ``arguments`` (plain data); the module's name
    is absolute.  Linux only.  Raises RuntimeError with the last line of what went wrong.
    """
    task = json.dumps([module, arguments, torch.get_num_threads()])
    # A fixed threshold: every large block goes back to the system when freed, so that none is there to reuse.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-m", "seemore_fast.measure.peers.memory", task]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"the measuring process ended with {done.returncode}")
    return int(done.stdout.splitlines()[-1])


def _measure(module: str, arguments: Sequence[object], threads: int) -> int:
    torch.set_num_threads(threads)
    peak = peak_of(import_module(module).call_of(*arguments))[1]
    if peak is None:
        raise OSError("this system does not tell how much memory a process took at its peak")
    return peak


def peak_of(call: Callable[[], T]) -> tuple[T, int | None]:
    """What ``call`` gives, and the memory that it adds at its peak, its result included.

    None where the system does not tell that: others than Linux, and containers that hide it.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    except (AttributeError, TypeError, OSError):
        return call(), None
    before = _status("VmRSS")
    result = call()
    return result, _status("VmHWM") - before


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None  # Linux has had both fields since 2.6
    return int(found[1]) * 1024


if __name__ == "__main__":
    print(_measure(*json.loads(sys.argv[1])))
