"""The processes of one training: started by torchrun or SLURM, or this one alone."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from seemore_fast.errors import BackendError, SeemoreError
from seemore_fast.options.schema import Distributed

Launcher = Literal["none", "pytorch", "slurm"]
Result = TypeVar("Result")

_PATIENCE = timedelta(days=1)
"""How long processes wait for one that decodes pictures or validates; one that dies is noticed at once."""

_FIRSTS_TURN = 30.0
"""Seconds a machine's first process has to say what is wrong before another one says it."""


class PeerFailed(SystemExit):
    """Ends this process without a word, for another one has failed and said why."""

    def __init__(self) -> None:
        super().__init__(1)

    def __str__(self) -> str:
        return "another process failed"


@dataclass(frozen=True)
class Processes:
    """This process's ``rank`` among ``world``; ``local_rank`` counts those of one machine.

    ``control`` is the group for what is agreed on apart from gradients; None: this process is alone.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    control: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def largest(self, value: int) -> int:
        """The largest ``value`` of all processes: what they agree on."""
        if self.control is None:
            return value
        agreed = torch.tensor(value)
        dist.all_reduce(agreed, dist.ReduceOp.MAX, self.control)
        return int(agreed)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, of any shape, on the CPU."""
        values = values.detach().cpu()
        if self.control is not None:
            dist.all_reduce(values, group=self.control)
        return values / self.world

    def wait(self) -> None:
        """Returns once all processes have come here."""
        self.largest(0)

    def one_first(self, function: Callable[[], Result]) -> Result:
        """``function()`` in every process, but one of each machine finishes before its others begin."""
        if self.local_rank == 0:
            result = function()
        self.wait()
        return result if self.local_rank == 0 else function()


def join(launcher: Launcher, options: Distributed, device_type: str) -> Processes:
    """Meets the other processes; ``none`` inside torchrun means ``pytorch``.

    Raises SeemoreError where the launcher's variables are not there.
    """
    if launcher == "slurm":
        _take_slurms_variables(options.port)
    elif launcher == "none" and not dist.is_torchelastic_launched():
        return Processes()
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ["LOCAL_RANK"])
    except (KeyError, ValueError):
        raise SeemoreError(
            "--launcher pytorch: start with torchrun -m seemore_fast.train; RANK is not set"
        ) from None
    if device_type == "cuda":
        if local_rank >= torch.cuda.device_count():
            have = torch.cuda.device_count()
            raise BackendError(
                f"process {local_rank} of this machine has no GPU of its own; there are {have}"
            )
        torch.cuda.set_device(local_rank)
    # NCCL has nothing to say to CPUs, whatever the file asks for.
    backend = options.backend if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)
    return Processes(rank, world, local_rank, dist.new_group(backend="gloo", timeout=_PATIENCE))


def leave() -> None:
    """Parts from the other processes, if there are any."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def one_failure() -> Iterator[None]:
    """The error of the process that fails first passes; the others, which lose a partner, raise PeerFailed.

    Before they have met, each machine's first process speaks for what all of them find.  Another one that
    ended first would make torchrun end that one before it has spoken, so it waits to be ended itself; what
    it alone has found, it says afterwards.
    """
    try:
        yield
    except Exception:
        if dist.is_initialized():
            if not _first_to_fail():
                raise PeerFailed from None
        elif os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(_FIRSTS_TURN)
        raise


def _first_to_fail() -> bool:
    try:
        return dist.distributed_c10d._get_default_store().add("seemore_fast/failed", 1) == 1
    except RuntimeError:  # the store went down with the process that failed
        return False


def _take_slurms_variables(port: int) -> None:
    """SLURM's names for what torch.distributed reads."""
    try:
        nodes = os.environ["SLURM_JOB_NODELIST"]
        names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
        os.environ.update({ours: os.environ[theirs] for ours, theirs in names.items()})
    except KeyError as error:
        raise SeemoreError(f"--launcher slurm: start with srun; {error.args[0]} is not set") from None
    if "MASTER_ADDR" not in os.environ:
        try:
            listed = subprocess.run(
                ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            raise SeemoreError("--launcher slurm: scontrol does not answer; set MASTER_ADDR") from None
        os.environ["MASTER_ADDR"] = listed.stdout.split()[0]
    os.environ.setdefault("MASTER_PORT", str(port))
