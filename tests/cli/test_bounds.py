"""Numbers beyond all bounds: every option that takes whole numbers says where they end."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from seemore_fast.cli import app
from seemore_fast.errors import SeemoreError
from seemore_fast.image import Image, write
from seemore_fast.measure.bench import parse_size
from seemore_fast.options import schema

HUGE = "9" * 5000


def whole_numbers() -> list[tuple[str, str, Any]]:
    """Subcommand, parameter and typer's description of every option that is a whole number."""
    found = []
    for command in app.registered_commands:
        hints = typing.get_type_hints(command.callback, include_extras=True)
        for name, hint in hints.items():
            kind, *rest = typing.get_args(hint) or (None,)
            if kind is int or int in typing.get_args(kind):
                found.append((command.name, name, rest[0]))
    return found


def test_every_whole_number_has_bounds() -> None:
    assert len(whole_numbers()) >= 12
    unbounded = [
        (command, name) for command, name, option in whole_numbers() if None in (option.min, option.max)
    ]
    assert not unbounded


@pytest.mark.parametrize("value", ["1000000", "2147483647", HUGE, "-1", "0"])
@pytest.mark.parametrize("command", ["upscale", "bench", "eval", "train", "demo", "compare", "video"])
def test_threads(command: str, value: str) -> None:
    done = CliRunner().invoke(app, [command, "--threads", value])
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "option", ["--tile", "--tile-overlap", "--gpu-id", "--quality", "--outscale", "--max-megapixels"]
)
def test_endless_digits(tmp_path: Path, option: str) -> None:
    write(tmp_path / "a.png", Image(np.zeros((4, 5, 3), np.uint8)))
    done = CliRunner().invoke(
        app, ["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), option, HUGE]
    )
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert option in done.stderr
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize("text", [HUGE + "x4", "4x" + HUGE, "1000000x4", "-1x4", "0x4", "4"])
def test_sizes(text: str) -> None:
    with pytest.raises(SeemoreError, match="size must be WIDTHxHEIGHT") as caught:
        parse_size(text)
    assert len(str(caught.value)) < 150


def test_experts_of_an_option_file() -> None:
    with pytest.raises(ValueError, match="gives experts of ranks up to 1048576, more than 4096"):
        schema.Network(type="SeemoRe", num_experts=20, lr_space="exp")
