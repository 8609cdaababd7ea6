"""``seemore-fast train``: an option file in, ``experiments/<name>`` out."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from seemore_fast.cli.options import ThreadsOption


class LauncherName(str, Enum):
    """Values of ``--launcher``."""

    none = "none"
    pytorch = "pytorch"
    slurm = "slurm"


def command(
    opt: Annotated[Path, typer.Option("-opt", "--opt", help="Option file in BasicSR's layout.")],
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    force_yml: Annotated[
        list[str] | None,
        typer.Option("--force_yml", help="Change the file: train:total_iter=1000; repeatable."),
    ] = None,
    auto_resume: Annotated[
        bool, typer.Option("--auto_resume", help="Go on from this experiment's newest state, if any.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Name it debug_<name>; print, validate and save often.")
    ] = False,
    launcher: Annotated[
        LauncherName, typer.Option(help="Who started the processes; torchrun is noticed.")
    ] = LauncherName.none,
    local_rank: Annotated[
        int, typer.Option("--local_rank", "--local-rank", min=0, max=10**6, hidden=True)
    ] = 0,
    threads: ThreadsOption = None,
) -> None:
    """Train a network: seemore-fast train -opt FILE; several GPUs: torchrun -m seemore_fast.train -opt FILE.

    Exit status:
    0    all iterations are done
    2    wrong options or pictures, a loss that is not finite, a full disk; earlier states are kept
    130  interrupted by Ctrl-C, after saving
    143  ended by SIGTERM, after saving
    """
    import torch

    from seemore_fast.errors import SeemoreError
    from seemore_fast.options import schema
    from seemore_fast.train.loop import train
    from seemore_fast.train.processes import one_failure

    more = more or []
    if more and not force_yml:
        raise SeemoreError(f"unexpected argument {more[0]!r}")
    if threads is not None:
        torch.set_num_threads(threads)
    with one_failure():
        read = schema.load(opt, [*(force_yml or []), *more])
    if debug and not read.name.startswith("debug"):
        read = read.model_copy(update={"name": f"debug_{read.name}"})
    ended_by = train(schema.shortened(read), launcher.value, auto_resume)
    if ended_by:
        raise typer.Exit(128 + ended_by)
