"""The documentation: tutorials run, the generated page is current, the site builds without a warning."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seemore_fast.cli import app
from tests.support.repository import ROOT


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs/tutorials" / page).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("page", ["embed.md", "kernel.md"])
def test_the_tutorials_python_runs(page: str) -> None:
    found = blocks(page, "python")
    assert found
    for code in found:
        exec(compile(code, page, "exec"), {})


def test_the_tutorials_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    commands = [line.split() for code in blocks("upscale.md", "sh") for line in code.splitlines()]
    assert len(commands) == 2
    for program, *arguments in commands:
        assert program == "seemore-fast"
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "cat-x4.png").is_file()
    assert (tmp_path / "large/cat_x4.webp").is_file()


def test_the_option_tables_are_current() -> None:
    spec = importlib.util.spec_from_file_location("cli_reference", ROOT / "docs/site/cli_reference.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    fresh = writer.PAGE.read_text() == writer.page()
    assert fresh, "run python docs/site/cli_reference.py"


def test_the_guides_commands_have_options_that_there_are() -> None:
    from typer.main import get_command

    table = (ROOT / "docs/guide.md").read_text().partition("| What you want |")[2].partition("\n\n")[0]
    found = re.findall(r"seemore-fast (\w+)([^`|]*)`(.*)", table)
    assert len(found) > 25
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, arguments, rest in found:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        written = re.findall(r"(?<=[ `])--?[a-z][\w-]*", arguments + (rest if "curl" not in rest else ""))
        assert set(written) <= known, (name, set(written) - known)


def test_every_page_is_in_the_site() -> None:
    nav = (ROOT / "mkdocs.yml").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert not {page for page in pages if page not in nav}


@pytest.mark.full
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for module in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed (pip install 'seemore-fast[docs]')")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "api/index.html").read_text()
    for name in ("Upscaler", "export_onnx", "striped_conv2d", "CheckpointError"):
        assert name in api
