"""Commands that a warm process forks (tests/support/warm.py) do what fresh ones do."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.warm import python

pytestmark = pytest.mark.skipif(python() == [sys.executable], reason="nothing forks but on Linux")


@pytest.mark.parametrize(
    ("code", "script"),
    [
        ("import sys; print(sys.argv, sys.stdin.read()); sys.exit(7)", "echo given | {} a 'b c'"),
        ("1 / 0", "{}"),
        ("import sys; sys.exit('message')", "{}"),
        ("import os; os.abort()", "{}"),
        ("import sys; print(sys.stdin, sys.stdout, file=sys.stderr)", "{} <&- >&-"),
        ("import sys; print(sys.stderr)", "{} 2>&-"),
        ("print(1)", "{} >/dev/full"),
        ("import sys; print(1, file=sys.stderr)", "{} 2>/dev/full"),
        (
            "import os; print(os.environ['WORD'], os.getcwd(), os.listdir('/proc/self/fd'))",
            "WORD=$'\\xff' {}",
        ),
        ("import os; os.getcwd()", "mkdir gone; cd gone; rmdir ../gone; {}"),
        ("import sys; print([(s.buffer, s.encoding, s.errors) for s in (sys.stdin, sys.stdout)])", "{}"),
    ],
)
def test_as_a_fresh_process(code: str, script: str, tmp_path: Path) -> None:
    def run(interpreter: list[str]) -> tuple[int, bytes, list[bytes]]:
        line = script.format(shlex.join([*interpreter, "-c", code]), "")
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True
        )
        return done.returncode, done.stdout, done.stderr.splitlines()[-1:]  # of a traceback

    assert run(python()) == run([sys.executable])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_it(number: int) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen([*python(), "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert child != process.pid
        process.send_signal(number)
        process.communicate(timeout=60)  # until nobody holds its streams
        assert process.returncode == -number


def test_what_only_a_fresh_process_heeds_is_refused() -> None:
    command = [*python(), "-c", "import seemore_fast"]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "77"}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr == "tests/support/warm.py: only a fresh process heeds OMP_NUM_THREADS\n"
