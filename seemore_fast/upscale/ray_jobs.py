"""Pictures from file to file on the machines of a Ray cluster.

Every worker runs `upscale_files` with a network of its own on a few pictures at a time.  Which worker gets
which, new workers in the place of lost ones, another try for what those had in hand: that is Ray Data's.
Machines share the file system; pictures never travel through Ray.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seemore_fast import __version__
from seemore_fast.errors import BackendError, SeemoreError
from seemore_fast.system.atomic import remove_stale
from seemore_fast.system.optional import need
from seemore_fast.upscale.folders import Listener, Outcome, Settings, upscale_files
from seemore_fast.upscale.jobs import Job

if TYPE_CHECKING:
    import pyarrow

with need("--ray", "ray"):
    import ray
    import ray.data

log = logging.getLogger(__name__)

_THREADS = 4  # of a worker's network, about what keeps one PNG encoder busy: docs/scaling.md
_BATCH = 32  # pictures that a worker takes at a time, so that their reading and writing overlap
_BATCHES = 8  # for each worker at least, so that none is left with much at the end
_TRIES = 3  # at a batch whose worker dies


@dataclass
class _Report:
    """What became of the pictures of a batch; no outcome: it is given up, for its workers died."""

    indices: list[int]
    notes: list[tuple[Job, str]] = field(default_factory=list)
    outcome: Outcome | None = None
    fault: str = ""
    """The traceback of an error that is no picture's own."""


def upscale_on_ray(
    network: dict[str, Any],
    threads: int | None,
    address: str | None,
    jobs: list[Job],
    settings: Settings,
    listener: Listener,
) -> Outcome:
    """As `upscale_files`, by workers of the Ray cluster at ``address`` (as ray.init takes it).

    ``network`` has the arguments of each worker's Upscaler, ``threads`` are its CPUs (default: 4, fewer where
    a machine has fewer, 1 beside a GPU).  Machines see the same files under the same paths.

    A picture whose worker dies is tried again, at last alone; if its worker dies each time, it has failed.
    What this run has already written is never written again.

    Raises SeemoreError, before anything is written, if there is no such cluster or its workers cannot run
    the network; BackendError if no machine has the device.
    """
    if not jobs:
        return Outcome()
    start = time.perf_counter()
    jobs = [Job(job.input.absolute(), job.output.absolute()) for job in jobs]
    _hush()
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SeemoreError(f"--ray: no cluster at {address or 'the default address'} ({error})") from None
    try:
        crew = _hire(network, threads, settings)
        if foreign := _try_out(crew):
            log.warning("%s: %s", network["model"], foreign)
        outcome = _run(crew, jobs, listener, start)
    finally:
        ray.shutdown()
    for folder in {job.output.parent for job in jobs}:
        remove_stale(folder)
    return outcome


def _hush() -> None:
    """What Ray says to its own users goes to its logs, and nothing to its makers."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Else a thread that outlives the run asks for figures every ten seconds, and complains of closed streams.
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.setLevel(logging.ERROR)


@dataclass(frozen=True)
class _Crew:
    """The workers: how many, and what each is made of and takes of its machine."""

    size: int
    cpus: int
    gpus: int
    network: dict[str, Any]
    settings: Settings
    tries: int
    version: str = __version__

    @property
    def resources(self) -> dict[str, int]:
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}


def _hire(network: dict[str, Any], threads: int | None, settings: Settings) -> _Crew:
    """As many workers as the cluster has room for now."""
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    if network["device"] == "cuda" or (network["device"] == "auto" and gpus):
        if not gpus:
            raise BackendError("--device cuda: no machine of the Ray cluster has a GPU")
        return _Crew(gpus, threads or 1, 1, {**network, "device": "cuda"}, settings, _TRIES)
    cores = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
    threads = threads or min([_THREADS, *cores])
    size = sum(count // threads for count in cores)
    if not size:
        most = max([0, *cores])
        raise BackendError(f"--threads {threads}: no machine of the Ray cluster has more than {most} CPUs")
    return _Crew(size, threads, 0, {**network, "device": "cpu"}, settings, _TRIES)


def _try_out(crew: _Crew) -> str:
    """Starts a worker on one of the machines, and raises here what goes wrong there; gives what its Upscaler
    has to say (`Upscaler.foreign`)."""
    probe = ray.remote(**crew.resources)(_probe)
    try:
        return ray.get(probe.remote(crew))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, SeemoreError):
            raise cause from None
        raise SeemoreError(f"--ray: a worker cannot start ({_last_line(error)})") from None


def _run(crew: _Crew, jobs: list[Job], listener: Listener, start: float) -> Outcome:
    outcome, reason = Outcome(), "its workers died, each time; see the logs of Ray"
    waiting = {index: _row(index, job) for index, job in enumerate(jobs)}
    batch = max(min(_BATCH, len(jobs) // (crew.size * _BATCHES)), 1)
    # What is given up comes again picture by picture: only one may be the cause.
    for size in [batch, 1] if batch > 1 else [1]:
        limit = len(jobs) if size == 1 else 3 + len(jobs) // size // 100
        try:
            for report in _reports(crew, list(waiting.values()), size):
                if report.fault:
                    raise RuntimeError(f"in a worker:\n{report.fault}")
                if report.outcome is None:
                    limit -= 1
                    if limit < 0:
                        raise ray.exceptions.RayError("too many workers died")
                    continue
                for index in report.indices:
                    del waiting[index]
                for job, note in report.notes:
                    listener.noted(job, note)
                for job, message in report.outcome.failed:
                    listener.failed(job, message)
                outcome.add(report.outcome)
                listener.progressed(len(jobs) - len(waiting), 0)
                listener.measured(outcome.pixels_out, time.perf_counter() - start)
        except ray.exceptions.RayError as error:
            reason = f"the run was given up ({_last_line(error)})"
            break
    for index in waiting:
        outcome.failed.append((jobs[index], f"{jobs[index].input}: {reason}"))
        listener.failed(*outcome.failed[-1])
    busy, outcome.seconds = outcome.seconds, time.perf_counter() - start
    if busy:  # the workers' share of time, as that of one
        outcome.network_seconds *= outcome.seconds / busy
    return outcome


def _reports(crew: _Crew, rows: list[dict[str, int | bytes]], size: int) -> Iterator[_Report]:
    """Has the pictures of ``rows`` upscaled, ``size`` at a time; batches come as they are finished."""
    if not rows:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a batch takes what it takes
    context.max_consecutive_actor_init_deaths = 3  # machines may also go while a worker starts
    # Ray Data starts workers and repeats batches as often as it takes: somebody must count.
    tries = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Tries).remote()
    batches = -(-len(rows) // size)
    results = ray.data.from_items(rows, override_num_blocks=batches).map_batches(
        _Worker,
        batch_size=None,  # a block
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=min(crew.size, batches), max_tasks_in_flight_per_actor=1),
        fn_constructor_args=(crew, tries),
        **crew.resources,
    )
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for report in batch["report"].to_pylist():
            yield pickle.loads(report)


class _Tries:
    """How often each batch was begun."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def begin(self, batch: int) -> int:
        """Counts the try that begins now."""
        self._counts[batch] += 1
        return self._counts[batch]


def _row(index: int, job: Job) -> dict[str, int | bytes]:
    """A picture as Ray Data's row: paths as bytes, for not all are text."""
    paths = {"input": os.fsencode(job.input), "output": os.fsencode(job.output)}
    return {"index": index, **paths, "written": _written(job.output)}


def _written(path: Path) -> int:
    """When ``path`` was last written, in nanoseconds; -1: it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return -1


class _Worker:
    """A process with an Upscaler of its own."""

    def __init__(self, crew: _Crew, tries: Any = None):
        if crew.version != __version__:
            here = socket.gethostname()
            raise SeemoreError(f"--ray: {here} has seemore-fast {__version__}, this machine {crew.version}")
        import torch

        from seemore_fast.upscale.upscaler import Upscaler

        torch.set_num_threads(crew.cpus)
        # GPUs have one worker each; a machine's memory is for as many as its CPUs allow.
        share = 1.0 if crew.gpus else crew.cpus / _cpus_here()
        self._upscaler = Upscaler(**crew.network, memory_share=share)
        self.foreign = self._upscaler.foreign
        self._crew, self._tries = crew, tries

    def __call__(self, batch: pyarrow.Table) -> dict[str, list[bytes]]:
        rows = batch.to_pylist()
        report = _Report([row["index"] for row in rows])
        if ray.get(self._tries.begin.remote(report.indices[0])) <= self._crew.tries:
            try:
                self._upscale(rows, report)
            except Exception:
                report.fault = traceback.format_exc()
        return {"report": [pickle.dumps(report)]}

    def _upscale(self, rows: list[dict[str, Any]], report: _Report) -> None:
        jobs = []
        for row in rows:
            job = Job(Path(os.fsdecode(row["input"])), Path(os.fsdecode(row["output"])))
            # A lost worker may have written some of the batch: newer than before the run, so by this run.
            if _written(job.output) <= row["written"]:
                jobs.append(job)
        notes = _Notes(report.notes)
        log = logging.getLogger("seemore_fast")
        log.addHandler(notes)
        try:
            report.outcome = upscale_files(self._upscaler, jobs, self._crew.settings, notes)
        finally:
            log.removeHandler(notes)
        report.outcome.written += len(rows) - len(jobs)


def _probe(crew: _Crew) -> str:
    return _Worker(crew).foreign


def _cpus_here() -> float:
    here = ray.get_runtime_context().get_node_id()
    return next(machine["Resources"]["CPU"] for machine in ray.nodes() if machine["NodeID"] == here)


class _Notes(logging.Handler):
    """Adds to ``notes`` what a batch has to say, log records included."""

    def __init__(self, notes: list[tuple[Job, str]]):
        super().__init__(logging.WARNING)
        self._notes = notes
        self._job: Job | None = None

    def started(self, index: int, job: Job) -> None:
        self._job = job

    def progressed(self, index: int, share: float) -> None: ...

    def measured(self, pixels_out: int, seconds: float) -> None: ...

    def failed(self, job: Job, message: str) -> None: ...  # the outcome has it

    def noted(self, job: Job, note: str) -> None:
        self._notes.append((job, note))

    def emit(self, record: logging.LogRecord) -> None:
        if self._job is not None:
            self.noted(self._job, record.getMessage())


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
