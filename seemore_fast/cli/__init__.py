"""The command ``seemore-fast``: one module for each subcommand, and how errors reach the terminal.

torch is imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from seemore_fast.cli import bench, compare, demo, eval, export, info, train, upscale, video, weights
from seemore_fast.cli.options import messages
from seemore_fast.errors import SeemoreError


class _OneLineErrors(TyperGroup):
    """Bad input and Ctrl-C end any subcommand with one line on stderr, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (SeemoreError, MemoryError) as error:
            messages().print(f"seemore-fast: {str(error) or 'out of memory'}")
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
app.command("compare")(compare.command)
app.command("export")(export.command)
app.command("info")(info.command)
app.command("bench")(bench.command)
app.command("weights")(weights.command)


def main() -> None:
    """Entry point of the ``seemore-fast`` script."""
    app(prog_name="seemore-fast")
