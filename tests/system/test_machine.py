"""Free memory: the least of what machine, containers and limits leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from seemore_fast.system.machine import free_memory, let_idle_threads_sleep

GIB = 1 << 30


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB available, without containers."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB))
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def group(folder: Path, limit: object, use: int, droppable: int = 0, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = (
        ("memory.max", "memory.current")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    for name, value in zip(names, (limit, use), strict=True):
        (folder / name).write_text(f"{value}\n")
    prefix = "" if version == 2 else "total_"
    (folder / "memory.stat").write_text(f"anon 5\n{prefix}inactive_file {droppable}\n")


def test_a_machine_without_limits(root: Path) -> None:
    assert free_memory(root) == 8 * GIB
    (root / "proc/self/cgroup").write_text("0::/user/shell\n")
    group(root / "sys/fs/cgroup/user/shell", "max", GIB)
    assert free_memory(root) == 8 * GIB


def test_the_tightest_group_counts(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("0::/outer/inner\n")
    group(root / "sys/fs/cgroup/outer", 4 * GIB, 3 * GIB, GIB // 2)
    group(root / "sys/fs/cgroup/outer/inner", 4 * GIB, GIB)
    assert free_memory(root) == GIB + GIB // 2


def test_a_container_that_sees_the_path_of_its_host(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("0::/docker/0123456789abcdef\n")
    group(root / "sys/fs/cgroup", 2 * GIB, GIB)
    assert free_memory(root) == GIB


def test_version_1(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("5:cpu:/a\n4:memory:/a\n")
    group(root / "sys/fs/cgroup/memory/a", 3 * GIB, 2 * GIB, 100, version=1)
    assert free_memory(root) == GIB + 100


def test_more_used_than_allowed_is_nothing_free(root: Path) -> None:
    (root / "proc/self/cgroup").write_text("0::/\n")
    group(root / "sys/fs/cgroup", GIB, 2 * GIB)
    assert free_memory(root) == 0


def test_ulimit_counts() -> None:
    code = (
        "import resource; from seemore_fast.system.machine import free_memory, let_idle_threads_sleep;"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40));"
        "free = free_memory();"
        "from pathlib import Path; size = next(1024 * int(l.split()[1]) for l in"
        " Path('/proc/self/status').read_text().splitlines() if l.startswith('VmSize'));"
        "resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 26), 1 << 40));"
        "assert 0 < free_memory() <= 1 << 26 < free, free"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits of addresses are tried on Linux")
def test_threads_take_little_where_addresses_are_bounded() -> None:
    code = (
        "import os, threading; from seemore_fast.system import machine;"
        "machine.spare_address_space(); print(os.environ.get('OMP_STACKSIZE'), threading.stack_size())"
    )
    said = [
        subprocess.run(
            ["bash", "-c", f'{limit} exec "$0" -c "$1"', sys.executable, code],
            capture_output=True,
            text=True,
            check=True,
            env={key: value for key, value in os.environ.items() if key != "OMP_STACKSIZE"},
        ).stdout.strip()
        for limit in ("", "ulimit -v 1000000;")
    ]
    assert said == ["None 0", "2048K 2097152"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "20000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_idle_threads_sleep_but_where_somebody_said_otherwise(
    given: dict[str, str], wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = dict(given)
    monkeypatch.setattr("seemore_fast.system.machine.os.environ", environment)
    let_idle_threads_sleep()
    assert environment.get("GOMP_SPINCOUNT") == wanted
