"""The repository as a whole: packaging, README's commands, links, and figures that stand in two places."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import seemore_fast
from seemore_fast.cli import app
from seemore_fast.network.reference import SeemoRe
from seemore_fast.network.variants import config, names
from tests.support.packages import DEPENDENCIES
from tests.support.repository import ROOT


def tracked_files() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("needs git, and a clone: which files belong to the repository is its knowledge")
    listed = subprocess.run([git, "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def text_files() -> dict[Path, str]:
    contents = {path: path.read_bytes() for path in tracked_files()}
    return {path: content.decode() for path, content in contents.items() if b"\0" not in content}


def readme_commands() -> list[list[str]]:
    """The steps of each line of README that starts with a virtual environment."""
    lines = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return [[step.strip() for step in line.split("&&")] for line in lines]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_has_two_commands_that_set_up_first():
    commands = readme_commands()
    assert len(commands) == 2
    for steps in commands:
        assert steps[0] == "python3 -m venv .venv"
        assert shlex.split(steps[1])[:4] == [".venv/bin/pip", "install", "-c", "constraints.txt"]
    assert [shlex.split(steps[2])[0] for steps in commands] == [".venv/bin/seemore-fast", ".venv/bin/pytest"]


def test_readme_upscales_the_sample(tmp_path):
    """README's own arguments, with the output elsewhere."""
    _, *arguments = shlex.split(readme_commands()[0][2])
    arguments = [ROOT / word if word.startswith("examples/") else word for word in arguments]
    arguments[-1] = tmp_path / arguments[-1]
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    assert result.exit_code == 0, result.output
    with Image.open(ROOT / "examples/cat.png") as small, Image.open(arguments[-1]) as large:
        assert large.size == (4 * small.width, 4 * small.height)


def test_readme_python_runs():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert tuple(scope["large"].shape) == (1, 3, 480, 640)


def test_relative_links_resolve():
    broken = []
    for page, text in text_files().items():
        if page.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_no_path_of_a_development_machine_in_the_repository():
    # "ann" and "somebody" are people whose homes other tests make up.
    private = re.compile(r"(?<![\w.])/(?:work|root|opt|home/(?!ann/|somebody/)[\w.-]+)/[\w.-]+")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path, text in text_files().items()
        for number, line in enumerate(text.splitlines(), 1)
        if private.search(line)
    ]
    assert not found


def test_no_file_is_too_long_to_read():
    code = {".py", ".cc", ".h", ".cu", ".cuh"}
    lines = {path: text.count("\n") for path, text in text_files().items() if path.suffix in code}
    assert len(lines) > 200, "the guard reads them all, whatever their names"
    assert not {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > 500}


def test_linters_have_one_version():
    pinned = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    hooks = re.findall(r"([\w-]+)==([\w.]+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert {name for name, _ in hooks} >= {"ruff", "clang-format", "mypy"}
    assert all(pinned[name] == version for name, version in hooks)


def test_constraints_pin_what_we_depend_on():
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert {requirement.name for requirement in DEPENDENCIES} <= set(pinned)


def test_environment_variables_are_documented():
    """Those that the code reads by name are exactly those that the page has."""
    reads = re.compile(
        r"""(?:environ\.get\(|environ\[|getenv\()["'](\w+)"""  # Python and C++
        r"""|\$ENV\{(\w+)\}|\bENV (\w+)"""  # CMake
    )
    sources = [
        path
        for folder in ("seemore_fast", "kernels", "csrc")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".cc", ".h", ".cu", ".cuh"}
    ]
    read = {
        name
        for path in [*sources, ROOT / "setup.py", ROOT / "CMakeLists.txt"]
        for match in reads.findall(path.read_text())
        for name in match
        if name
    }
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "docs/environment-variables.md").read_text(), re.MULTILINE)
    assert read == {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_what_is_in_the_full_tier_stands_in_the_table():
    """docs/testing.md names every file that has such tests."""
    table = (ROOT / "docs/testing.md").read_text()
    marked = {
        str(path.relative_to(ROOT / "tests"))
        for path, text in text_files().items()
        if path.name.startswith("test_") and path.suffix == ".py" and "pytest.mark." + "full" in text
    }
    assert marked
    assert not {name for name in marked if f"`{name}" not in table}


@pytest.mark.parametrize("size", ["t", "b", "l"])
def test_architecture_page_has_the_parameter_counts(size):
    page = (ROOT / "docs/architecture.md").read_text()
    (row,) = re.findall(rf"^\| {size.upper()} \|.*$", page, re.MULTILINE)
    counts = [
        sum(parameter.numel() for parameter in SeemoRe(**config(name)).parameters())
        for name in names()
        if name.startswith(size)
    ]
    assert " / ".join(f"{count:,}" for count in counts) in row


def test_version_stands_in_one_place():
    """pyproject.toml takes it from the package."""
    text = (ROOT / "pyproject.toml").read_text()
    assert not re.search(r"^version = [\"']", text, re.MULTILINE)
    assert f"[{seemore_fast.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_python_file_says_first_what_it_is_for():
    silent = [
        str(path.relative_to(ROOT))
        for path, text in text_files().items()
        if path.suffix == ".py" and not ast.get_docstring(ast.parse(text))
    ]
    assert not silent
