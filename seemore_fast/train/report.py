"""What a run tells: lines on the terminal and in a log file, a progress bar, TensorBoard."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from seemore_fast.errors import PackageError, SeemoreError
from seemore_fast.system.optional import need
from seemore_fast.system.terminal import Screen

_SPEED_SPAN = 30.0  # seconds over which the speed is taken


class Report:
    """Tells of a run of ``total`` iterations; a process that is not ``talking`` says nothing."""

    def __init__(self, total: int, talking: bool):
        self._total, self._talking = total, talking
        self._console = Screen(stderr=True, soft_wrap=True, highlight=False, emoji=False)
        self._log: logging.FileHandler | None = None
        self._board: Any = None
        self._wandb: Any = None
        self._bar: Progress | None = None
        self._marks: list[tuple[float, int]] = []
        if talking and self._console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[speed]}"), console=self._console)
            self._task = self._bar.add_task("", total=None, speed="")

    def __enter__(self) -> Report:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._log is not None and kind is not None:
            self._log.emit(_record(f"stopped: {error or kind.__name__}"))
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)
        if self._log is not None:
            self._log.close()

    def open_log(self, file: Path) -> None:
        """From here on lines also go to ``file``.  Raises SeemoreError where it cannot be written."""
        if not self._talking:
            return
        try:
            self._log = logging.FileHandler(file, encoding="utf-8")
        except OSError as error:
            raise SeemoreError(f"{file}: {error.strerror}") from None
        self._log.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    def open_board(self, folder: Path, iteration: int) -> None:
        """Scalars go to TensorBoard from here on; what was there beyond ``iteration`` is dropped."""
        if not self._talking:
            return
        try:
            with need("TensorBoard", "train"):
                from torch.utils.tensorboard import SummaryWriter
        except PackageError as error:
            self.say(f"no TensorBoard files: {error}")
            return
        self._board = SummaryWriter(folder, purge_step=iteration + 1)

    def need_wandb(self) -> None:
        """Raises PackageError where Weights & Biases is not installed."""
        if self._talking:
            with need("logger:wandb", "wandb"):
                import wandb  # noqa: F401

    def open_wandb(
        self, project: str | None, run: str, resume_id: str | None, config: Mapping[str, Any], folder: Path
    ) -> None:
        """Scalars also go to Weights & Biases, as run ``run`` of ``project``, or on with ``resume_id``; its
        own files are in ``folder``.

        Raises SeemoreError where it refuses.
        """
        if not self._talking:
            return
        with need("logger:wandb", "wandb"):
            import wandb
        try:
            self._wandb = wandb.init(
                project=project,
                name=run,
                id=resume_id,
                resume="allow",
                config=dict(config),
                dir=str(folder),
                settings=wandb.Settings(silent=True),
            )
        except Exception as error:  # a dozen of its own
            why = str(error).strip().split("\n")[0]
            raise SeemoreError(f"logger:wandb: {why} (WANDB_MODE=offline keeps figures here)") from None
        self.say(f"wandb has this run as {self._wandb.id} (logger:wandb:resume_id goes on with it)")

    def say(self, text: str) -> None:
        """One line."""
        if not self._talking:
            return
        self._console.print(text, markup=False)
        if self._log is not None:
            self._log.emit(_record(text))

    def preparing(self, what: str, done: int, total: int) -> None:
        """Progress of what comes before the first iteration."""
        if self._bar is not None:
            self._bar.update(self._task, description=what, completed=done, total=total)
        elif self._talking and done == total:
            self.say(f"{what}: {total} pictures")

    def step(self, iteration: int) -> None:
        """``iteration`` is done."""
        now = time.monotonic()
        if not self._marks or now - self._marks[-1][0] > 1:
            self._marks.append((now, iteration))
            while now - self._marks[0][0] > _SPEED_SPAN and len(self._marks) > 2:
                del self._marks[0]
            if self._bar is not None:
                self._bar.update(self._task, completed=iteration, total=self._total, speed=self._pace())

    def losses(self, iteration: int, rate: float, terms: Mapping[str, float]) -> None:
        """Learning rate and mean losses since the last call."""
        shown = "  ".join(f"{name} {value:.4e}" for name, value in terms.items())
        self.say(f"iter {iteration:,}/{self._total:,}  lr {rate:.3e}  {shown}  {self._pace(iteration)}")
        if self._bar is not None:
            self._bar.update(self._task, description=shown)
        self.scalars(iteration, {"lr": rate, **{f"losses/{name}": value for name, value in terms.items()}})

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """For TensorBoard and wandb."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, iteration)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=iteration)

    def _pace(self, iteration: int | None = None) -> str:
        """Iterations a second, and the time that is left at this speed."""
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        if iteration is not None:
            end, last = time.monotonic(), iteration
        if last == first:
            return ""
        speed = (last - first) / (end - start)
        left = int((self._total - last) / speed)
        return f"{speed:.2f} it/s  eta {left // 3600}:{left // 60 % 60:02}:{left % 60:02}"


def _record(text: str) -> logging.LogRecord:
    return logging.LogRecord("seemore_fast.train", logging.INFO, "", 0, text, None, None)
