"""Running CMake, compilers and other tools on the repository; a missing one skips the test."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT

PATHS = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"


def tool(name: str) -> str:
    found = shutil.which(name, path=PATHS)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path, ok: bool = True) -> str:
    done = subprocess.run(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, cwd=ROOT
    )
    assert not ok or done.returncode == 0, done.stdout
    return done.stdout


def configure(build: Path, *options: str, ok: bool = True) -> str:
    return run(
        *(tool("cmake"), "-S", ROOT, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"),
        *(f"-DPython_EXECUTABLE={sys.executable}", f"-DSEEMORE_OUTPUT_DIR={build}", *options),
        ok=ok,
    )
