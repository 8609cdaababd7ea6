"""The command ``seemore-fast``: one module for each subcommand, and how errors reach the terminal.

torch is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from ..errors import SeemoreError
from . import bench, compare, demo, eval, export, info, train, upscale, video


class _OneLineErrors(TyperGroup):
    """Bad input and Ctrl-C end any subcommand with one line on stderr, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        # A key's path such as datasets:train:gt_size has an emoji's name in it.
        console = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
        try:
            return super().invoke(ctx)
        except SeemoreError as error:
            console.print(f"seemore-fast: {error}", markup=False)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            console.print("seemore-fast: interrupted")
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
app.command("compare")(compare.command)
app.command("export")(export.command)
app.command("info")(info.command)
app.command("bench")(bench.command)


def main() -> None:
    """Entry point of the ``seemore-fast`` script."""
    app(prog_name="seemore-fast")
