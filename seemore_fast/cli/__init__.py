"""The command ``seemore-fast``: one module for each subcommand, and how errors reach the terminal.

torch is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup

from seemore_fast.cli import bench, compare, demo, eval, export, info, serve, train, upscale, video, weights
from seemore_fast.cli.options import messages
from seemore_fast.errors import SeemoreError
from seemore_fast.system.machine import let_idle_threads_sleep, spare_address_space
from seemore_fast.system.terminal import flush_output, reserve_streams


class _OneLineErrors(TyperGroup):
    """Bad input and Ctrl-C end any subcommand with one line on stderr, without a traceback."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # A variable that is not set: as a path it would be the working folder.
        for before, argument in zip(["", *args], args, strict=False):
            if (argument == "" and before != "--suffix") or (
                argument.startswith("--") and argument.endswith("=") and argument != "--suffix="
            ):
                raise typer.BadParameter(f"{argument or before}: an empty value is no file, folder or number")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (SeemoreError, MemoryError) as error:
            messages().print(f"seemore-fast: {str(error) or 'out of memory'}")
            raise typer.Exit(2) from None
        except OSError as error:  # what no command foresaw: a path too long, a folder that went away
            name = f"{os.fsdecode(error.filename)[:200]}: " if error.filename else ""
            messages().print(f"seemore-fast: {name}{error.strerror or error}")
            with suppress(OSError):
                flush_output()
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            messages().print("seemore-fast: interrupted")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_OneLineErrors,
    help="SeemoRe image super-resolution at hardware speed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("upscale")(upscale.command)
app.command("video")(video.command)
app.command("eval")(eval.command)
app.command("train")(train.command)
app.command("demo")(demo.command)
app.command("serve")(serve.command)
app.command("compare")(compare.command)
app.command("export")(export.command)
app.command("info")(info.command)
app.command("bench")(bench.command)
app.command("weights")(weights.command)


def main() -> None:
    """Entry point of the ``seemore-fast`` script."""
    reserve_streams()
    spare_address_space()
    if sys.argv[1:2] != ["bench"]:  # which measures PyTorch, too, as it comes
        let_idle_threads_sleep()
    try:
        os.getcwd()
    except OSError as error:
        messages().print(f"seemore-fast: the working folder is gone ({error.strerror}); cd to another")
        sys.exit(2)
    try:
        app(prog_name="seemore-fast")
    finally:
        try:
            flush_output()
        except OSError as error:  # a full disk, or a reader that went away
            messages().print(f"seemore-fast: standard output: {error.strerror}")
            sys.exit(2)
