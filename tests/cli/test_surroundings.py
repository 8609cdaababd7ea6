"""The command in odd surroundings: hostile names, closed streams, pipes as files, a folder that is gone."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from seemore_fast.cli import app
from seemore_fast.errors import ImageError
from seemore_fast.image import Image, read, write
from seemore_fast.model import SeemoRe
from seemore_fast.network import checkpoint
from seemore_fast.system.atomic import atomic_path
from seemore_fast.system.terminal import Screen, printable
from seemore_fast.upscale.jobs import plan_jobs
from tests.support.small import SMALL
from tests.support.warm import python

HOSTILE = "a\x1b[31m\nseemore-fast: all is well\u202e\x9b2J.png"


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    checkpoint.save(SeemoRe(**SMALL), path)
    return path


def picture(path: Path) -> Path:
    write(path, Image(np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)))
    return path


def shell(script: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """``script`` by bash: ``run`` is the command, ``start`` the same in a fresh process, "$1" an argument."""
    line = f"start() {{ '{sys.executable}' -m seemore_fast.cli \"$@\"; }}; {script}"
    line = f'run() {{ {shlex.join(python())} -m seemore_fast.cli "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", line, "bash", *map(str, arguments)], capture_output=True, cwd=cwd)


# Names


def test_names_are_spelled_out(tmp_path: Path, network: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / HOSTILE).write_bytes(b"no picture")
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"no picture")
    picture(folder / "good\x1b[2J.png")
    arguments = ["upscale", str(folder), "-o", str(tmp_path / "out"), "--model", str(network)]
    said = CliRunner().invoke(app, arguments).stderr
    assert not set(said) & set("\x1b\x9b\u202e")
    assert "a\\x1b[31m\\nseemore-fast: all is well\\u202e\\x9b2J.png: not a PNG" in said
    assert "\nseemore-fast: all is well" not in said
    assert all(line.startswith(("seemore-fast: ", "  ")) for line in said.splitlines())


def test_tables_and_bars(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    from seemore_fast.cli.options import progress_bar

    table = Table("x")
    table.add_row(HOSTILE)
    screen = Screen(width=100)
    screen.print(table)
    assert "\x1b[31m" not in capsys.readouterr().out
    table.add_row(Text(HOSTILE))
    screen.print(table)
    shown = capsys.readouterr().out
    assert not set(shown) & set("\x1b\x9b\u202e")
    assert "\n\nseemore-fast" not in shown
    with Screen(force_terminal=True, width=200, color_system=None).status("") as status:
        status.update(HOSTILE)
    assert "\x1b[31m" not in capsys.readouterr().out
    with progress_bar(Screen(force_terminal=True, width=200, color_system=None)) as bar:
        bar.add_task(HOSTILE)
    assert "\x1b[31m" not in capsys.readouterr().out


def test_printable_leaves_the_rest_alone() -> None:
    assert printable("für 日本 💡.png") == "für 日本 💡.png"
    assert printable("\udcff") == "\\udcff"


# Streams


def test_closed_streams_are_one_line(tmp_path: Path, network: Path) -> None:
    source = picture(tmp_path / "a.png")
    done = shell('run upscale "$1" -o - --model "$2" >&-', source, network)
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1
    assert b"standard output is closed" in done.stderr
    done = shell('run upscale -i - -o "$2" --model "$1" <&-', network, tmp_path / "b.png")
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1
    assert b"standard input is closed" in done.stderr
    done = shell('start upscale "$1" -o "$3" --model "$2" <&- >&- 2>&-', source, network, tmp_path / "b.png")
    assert done.returncode == 0
    assert read(tmp_path / "b.png").pixels.shape == (16, 18, 3), "nothing else was written into it"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("arguments", ["weights", "upscale --help"])
def test_output_that_cannot_be_written_is_one_line(arguments: str) -> None:
    done = shell(f"run {arguments} >/dev/full")
    assert done.returncode == 2
    assert re.fullmatch("seemore-fast: (standard output: )?No space left on device\n", done.stderr.decode())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_messages_that_cannot_be_told_stop_nothing(tmp_path: Path, network: Path) -> None:
    (tmp_path / "in").mkdir()
    picture(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"none")
    done = shell('run upscale "$1" -o "$2" --model "$3" 2>/dev/full', tmp_path / "in", tmp_path, network)
    assert done.returncode == 1
    assert read(tmp_path / "a.png").pixels.shape == (16, 18, 3)


def test_libraries_find_streams_that_are_closed(tmp_path: Path) -> None:
    """They ask whether standard output is a terminal; pictures are not for the null device all the same."""
    code = (
        "from seemore_fast.system.terminal import reserve_streams, standard_stream; import sys;"
        "reserve_streams(); assert not sys.stdout.isatty(); print(1); sys.stdin.read();"
        "standard_stream('stdout')"
    )
    done = shell(f'exec {sys.executable} -c "{code}" >&- <&- 2>"$1"', tmp_path / "said")
    assert done.returncode == 1
    assert "standard output is closed" in (tmp_path / "said").read_text()


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    done = shell("mkdir gone && cd gone && rmdir ../gone && run upscale a.png -o b.png", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.decode().count("\n") == 1, done.stderr
    assert b"the working folder is gone" in done.stderr


def test_pipes_as_files(tmp_path: Path, network: Path) -> None:
    source = picture(tmp_path / "a.png")
    os.mkfifo(tmp_path / "in.png")
    os.mkfifo(tmp_path / "out.png")
    got: list[bytes] = []
    feed = threading.Thread(
        target=lambda: (tmp_path / "in.png").write_bytes(source.read_bytes()), daemon=True
    )
    drain = threading.Thread(target=lambda: got.append((tmp_path / "out.png").read_bytes()), daemon=True)
    feed.start()
    drain.start()
    arguments = [
        "upscale",
        str(tmp_path / "in.png"),
        "-o",
        str(tmp_path / "out.png"),
        "--model",
        str(network),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    drain.join(10)
    assert (tmp_path / "out.png").is_fifo()
    assert read("a", data=got[0]).pixels.shape == (16, 18, 3)


def test_whatever_is_no_file_stays_what_it_is(tmp_path: Path) -> None:
    with atomic_path(Path(os.devnull)) as temporary:
        temporary.write_text("text")
    assert Path(os.devnull).is_char_device()


# Paths


@pytest.mark.parametrize(
    "arguments",
    [["-o", ""], ["--output="], ["-o", "out", "--model", ""], ["", "-o", "out"], ["-i", "", "-o", "out"]],
)
def test_empty_values(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png")
    result = CliRunner().invoke(app, ["upscale", "a.png", *arguments])
    assert result.exit_code == 2
    assert "an empty value is no file" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_empty_suffix_is_a_suffix(tmp_path: Path, network: Path) -> None:
    picture(tmp_path / "a.png")
    arguments = [
        str(tmp_path / "a.png"),
        "-o",
        str(tmp_path / "out"),
        "--suffix",
        "",
        "--model",
        str(network),
    ]
    assert CliRunner().invoke(app, ["upscale", *arguments]).exit_code == 0


@pytest.mark.parametrize("output", ["x" * 300 + ".png", "/".join(["x" * 200] * 30) + ".png"])
def test_paths_that_are_too_long(tmp_path: Path, network: Path, output: str) -> None:
    source = picture(tmp_path / "a.png")
    arguments = ["upscale", str(source), "-o", str(tmp_path / output), "--model", str(network)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert "File name too long" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("line", ["a.png\t../x.png", "a.png\tb/../../x.png", "a.png\t/tmp/x.png"])
def test_a_manifest_stays_in_the_output_folder(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.txt").write_text(f"first.png\n{line}\n")
    with pytest.raises(ImageError, match=r"list\.txt:2: .* leads out of the output folder"):
        plan_jobs([], tmp_path / "out", manifest=tmp_path / "list.txt")
