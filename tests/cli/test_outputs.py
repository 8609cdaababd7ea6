"""Files that a command writes: never over what it reads, and what hinders them is found before any work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from seemore_fast.cli import app
from seemore_fast.network import weights
from tests.support.repository import ROOT


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """HR/a.png, LR/a.png, net.safetensors and a link to it."""
    with Image.open(ROOT / "examples/cat.png") as cat:
        for folder, side in ("HR", 64), ("LR", 32):
            (tmp_path / folder).mkdir()
            cat.convert("RGB").resize((side, side)).save(tmp_path / folder / "a.png")
    (tmp_path / "net.safetensors").write_bytes(weights.path("t-x2").read_bytes())
    os.link(tmp_path / "net.safetensors", tmp_path / "again.csv")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(folder: Path, *arguments: object) -> str:
    before = contents(folder)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 2, done.output
    assert "PSNR" not in done.output
    assert contents(folder) == before
    return " ".join(done.output.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--json", "HR/a.png"], "would overwrite an input"),
        (["--markdown", "LR/../LR/a.png"], "would overwrite an input"),
        (["--csv", "net.safetensors"], "would overwrite an input"),
        (["--csv", "again.csv"], "would overwrite an input"),
        (["--csv", "x.txt", "--json", "x.txt"], "two files would be written there"),
        (["--json", "HR"], "is a folder"),
        (["--json", "none/x.json"], "there is no folder"),
    ],
)
def test_reports_of_eval(data: Path, options: list[str], said: str) -> None:
    files = [option if option.startswith("--") else f"{data}/{option}" for option in options]
    model = ["--model", data / "net.safetensors"]
    assert said in refused(data, "eval", *model, "--data", data / "HR", data / "LR", *files)


def test_a_figure_over_its_picture(data: Path) -> None:
    said = refused(data, "compare", data / "HR/a.png", "-o", data / "HR/a.png", "--model", "t-x2")
    assert "would overwrite an input" in said


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write anywhere")
def test_a_report_in_a_folder_without_permission(data: Path) -> None:
    (data / "locked").mkdir(mode=0o500)
    model = ["--model", data / "net.safetensors"]
    said = refused(data, "eval", *model, "--data", data / "HR", data / "LR", "--json", data / "locked/x.json")
    assert "cannot write here" in said


def test_templates_that_lead_to_other_folders(data: Path) -> None:
    pairs = ["--model", "t-x2", "--data", data / "HR", data / "LR"]
    for template in ("b/{}", "{}/", "../LR/{}"):
        assert "and no folder" in refused(data, "eval", *pairs, "--filename-tmpl", template)
