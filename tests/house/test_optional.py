"""Optional packages: each import names its extra; without them, one line says what to install."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from seemore_fast.cli import app
from tests.support.packages import (
    EXTRAS,
    ROOT,
    base_install,
    optional_packages,
    pip_install,
    sources,
    third_party,
)

GUARDED_BY_THEIR_PACKAGE = ("seemore_fast/video/",)
"""Folders whose ``__init__`` needs what all of its modules import."""


def needs(tree: ast.AST) -> dict[int, str]:
    """Lines inside ``with need(job, extra):`` -> extra."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.With) and ast.unparse(node).startswith("with need("):
            extra = ast.literal_eval(node.items[0].context_expr.args[1])
            found |= dict.fromkeys(range(node.lineno, node.end_lineno + 1), extra)
    return found


def excused(tree: ast.AST) -> set[int]:
    """Lines for type checkers only, and those that go on where an import fails."""
    found: set[int] = set()
    for node in ast.walk(tree):
        types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        tried = isinstance(node, ast.Try) and "ImportError" in {
            ast.unparse(handler.type) for handler in node.handlers if handler.type
        }
        if types or tried:
            found |= set(range(node.lineno, node.body[-1].end_lineno + 1))
    return found


def test_every_optional_import_names_its_extra() -> None:
    bare, unknown = [], set()
    for path in sources():
        place = path.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text())
        guarded, fine = needs(tree), excused(tree)
        unknown |= set(guarded.values()) - EXTRAS
        bare += [
            f"{place}:{node.lineno}: {package}"
            for package, node in third_party(tree)
            if node.lineno not in guarded and node.lineno not in fine
            if not place.startswith(GUARDED_BY_THEIR_PACKAGE)
        ]
    assert not bare
    assert not unknown


def test_the_list_of_optional_packages_is_found() -> None:
    assert {"av", "lmdb", "onnx", "ray", "spandrel", "gradio"} <= optional_packages()


class Base(NamedTuple):
    """An install without extras: how its Python is started."""

    python: tuple[str, ...]
    environment: dict[str, str]


@pytest.fixture(scope="module", params=["linked", pytest.param("by pip", marks=pytest.mark.full)])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Of what is installed here, and as pip makes it anew."""
    if request.param == "linked":
        return Base((sys.executable, "-S"), base_install(tmp_path_factory.mktemp("base")))
    python = pip_install(tmp_path_factory.mktemp("venv"))
    return Base((str(python),), {k: v for k, v in os.environ.items() if k != "PYTHONPATH"})


def run(base: Base, folder: Path, code: str, *arguments: str) -> Any:
    """What ``code`` prints as JSON in an install without extras."""
    done = subprocess.run(
        [*base.python, "-c", code, *arguments],
        **{"env": base.environment, "cwd": folder, "capture_output": True, "text": True, "timeout": 600},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


IMPORTS = """
import importlib, json, sys
from seemore_fast.errors import PackageError
refused = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except PackageError as error:
        refused[name] = str(error)
print(json.dumps(refused))
"""


def test_every_module_imports_or_names_its_extra(base: Base, tmp_path: Path) -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources()]
    refused = run(base, tmp_path, IMPORTS, *(name for name in names if not name.endswith("__main__")))
    extras = {
        name: re.findall(r"pip install 'seemore-fast\[(\w+)\]'", said) for name, said in refused.items()
    }
    assert {name: found for name, found in extras.items() if ".video" not in name} == {
        "seemore_fast.plugins.hub": ["hub"],
        "seemore_fast.plugins.spandrel": ["spandrel"],
        "seemore_fast.plugins.vapoursynth": ["vapoursynth"],
        "seemore_fast.serve.app": ["serve"],
        "seemore_fast.serve.run": ["serve"],
        "seemore_fast.upscale.ray_jobs": ["ray"],
    }
    assert {tuple(found) for name, found in extras.items() if ".video" in name} == {("video",)}


COMMANDS = """
import json, sys
from typer.testing import CliRunner
from seemore_fast.cli import app
results = []
for line in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, line.split())
    trace = None if isinstance(done.exception, (SystemExit, type(None))) else repr(done.exception)
    results.append([line, done.exit_code, done.stderr, trace])
print(json.dumps(results))
"""

CAT = ROOT / "examples/cat.png"

WORK = [
    "info",
    "--help",
    "weights",
    f"upscale {CAT} -o cat.png",
    f"compare {CAT} -o figure.png",
    "train -opt none.yml",
    "eval --model t-x4 --data . . --csv out.csv",
    "bench --model t-x4 --size 16x16 --runs 1",
]

REFUSED = {
    "export -o t-x4.onnx": "export",
    "demo": "demo",
    "serve": "serve",
    f"video {CAT} -o cat.mkv": "video",
    f"upscale -i {CAT} -o out --ray": "ray",
    f"upscale {CAT} -o cat.jxl": "jxl",
    f"upscale {CAT} -o cat.heic": "heic",
    f"upscale {CAT} -o cat.exr": "exr",
}


def test_commands_work_or_name_their_extra(base: Base, tmp_path: Path) -> None:
    """In one process; ``eval`` and ``train`` are left to say that there are no pictures and options."""
    commands = {line.split()[0] for line in (*WORK, *REFUSED)} - {"--help"}
    assert commands == {command.name for command in app.registered_commands}
    results = run(base, tmp_path, COMMANDS, json.dumps([*WORK, *REFUSED]))
    assert not [trace for *_, trace in results if trace]
    for line, code, said, _ in results:
        if line in REFUSED:
            # A picture that cannot be written is one of many that may be done.
            assert code == (1 if REFUSED[line] in ("jxl", "heic", "exr") else 2), line
            assert len(said.splitlines()) == 1, said
            assert f"pip install 'seemore-fast[{REFUSED[line]}]'" in said
        elif line.startswith(("eval", "train")):
            assert (code, len(said.splitlines())) == (2, 1), said
        else:
            assert code == 0, (line, said)
    assert (tmp_path / "cat.png").is_file()
    assert (tmp_path / "figure.png").is_file()
    assert not {path.suffix for path in tmp_path.iterdir()} - {".png", ""}
