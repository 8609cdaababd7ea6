"""Runs a course's steps one after another; what fails, hangs or crashes is noted, and the next step begins.

Every process has a log of its own.  What came of it is a line of steps.jsonl at once, and every few seconds
all that there is lies packed in the folder of results: if this program dies, that much is there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contact import rows
from benchmarks.contact.rows import Row

STEPS, ARCHIVE, REPORT = "steps.jsonl", "results.tar.gz", "report.txt"

_LAST_WORDS = ((signal.SIGINT, 3.0), (signal.SIGABRT, 1.0), (signal.SIGKILL, 5.0))
"""To what has run out of time, with seconds to obey: pytest sums up, faulthandler tells where threads are."""

_KEEP_EVERY = 10.0  # seconds, while a step runs


@dataclass(frozen=True)
class Step:
    """Commands that run at once, by name; ``seconds``: what they have together.

    ``ends``: where it fails the course is over.
    """

    name: str
    seconds: float
    commands: Mapping[str, list[str]]
    ends: bool = False


@dataclass
class Course:
    """``work``: for logs and rows; ``out``: for the archive, the report and steps.jsonl; ``seconds``: in all.

    ``report``: makes the text of the report from ``work``.
    """

    work: Path
    out: Path
    seconds: float
    report: Callable[[Path], str]
    start: float = field(default_factory=time.monotonic)
    _kept: float = 0.0

    def run(self, steps: list[Step]) -> bool:
        """Whether all went well."""
        well = True
        for step in steps:
            left = self.seconds - (time.monotonic() - self.start)
            if left < 1:
                self._note({"step": step.name, "name": step.name, "status": "skipped: no time was left"})
                well = False
                continue
            passed = self._run(step, min(step.seconds, left))
            well &= passed
            self.keep()
            if step.ends and not passed:
                break
        return well

    def keep(self) -> None:
        """Packs what there is: report and archive, each new or as it was."""
        self._kept = time.monotonic()
        report = self.report(self.work)
        _replace(self.work / REPORT, lambda path: path.write_text(report))
        _replace(self.out / REPORT, lambda path: path.write_text(report))

        def pack(path: Path) -> None:
            with tarfile.open(path, "w:gz") as archive:
                for file in sorted(self.work.iterdir()):
                    archive.add(file, file.name)

        _replace(self.out / ARCHIVE, pack)

    def _run(self, step: Step, seconds: float) -> bool:
        """Whether all of its processes have ended well within the time."""
        begun = time.monotonic()
        running: dict[str, subprocess.Popen[bytes]] = {}
        well = True
        try:
            for name, command in step.commands.items():
                self._note({"step": step.name, "name": name, "status": "started", "budget": seconds})
                running[name] = self._start(name, command)
            while running:
                left = begun + seconds - time.monotonic()
                ended = [n for n, process in running.items() if process.poll() is not None or left <= 0]
                for name in ended:
                    process = running.pop(name)
                    late = process.returncode is None
                    _stop(process)  # and whatever it has left running
                    status = f"no end after {seconds:.0f} s" if late else _meaning(process.returncode)
                    well &= status == "ok"
                    took = round(time.monotonic() - begun, 1)
                    self._note({"step": step.name, "name": name, "status": status, "seconds": took})
                if not ended:
                    self._wait(running, left)
        finally:
            for process in running.values():
                _stop(process)
        return well

    def _wait(self, running: Mapping[str, subprocess.Popen[bytes]], seconds: float) -> None:
        """For one of them to end, at most so long; what they write meanwhile is kept now and then."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and all(process.poll() is None for process in running.values()):
            time.sleep(max(0.0, min(0.05, end - time.monotonic())))
            if time.monotonic() - self._kept > _KEEP_EVERY:
                self.keep()

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        log = self.work / f"{name}.log"
        try:
            with log.open("wb") as file:
                # A group, not a session: what a machine's command leaves behind may end with it.
                return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, preexec_fn=os.setpgrp)
        except OSError as reason:  # not installed
            log.write_text(f"{reason}\n")
            return subprocess.Popen(["false"], preexec_fn=os.setpgrp)

    def _note(self, row: Row) -> None:
        for folder in dict.fromkeys((self.work, self.out)):
            rows.append(folder / STEPS, row)
        if row["status"] != "started":
            seconds = f"{row['seconds']:.0f} s" if "seconds" in row else ""
            print(f"{row['name']:24} {seconds:>6}  {row['status']}", flush=True)


def _meaning(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return "ok" if code == 0 else f"failed ({code})"


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in _LAST_WORDS:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number if process.poll() is None else signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            if number == signal.SIGKILL or not _lives(process.pid):
                return


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except OSError:
        return False
    return True


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    part = path.with_name(f".{path.name}")
    write(part)
    os.replace(part, path)
