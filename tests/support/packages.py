"""Which packages the code imports, which of them an install without extras has, and such an install."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.repository import ROOT

PYPROJECT = (ROOT / "pyproject.toml").read_text()
EXTRAS = set(
    re.findall(
        r"^(\w+) = \[", PYPROJECT.partition("[project.optional-dependencies]")[2].partition("\n[")[0], re.M
    )
)
(_needed,) = re.findall(r"^dependencies = \[\n(.*?)^\]", PYPROJECT, re.MULTILINE | re.DOTALL)
DEPENDENCIES = [Requirement(text) for text in re.findall(r'"(.+?)"', _needed)]
BASE = {{"pyyaml": "yaml", "pillow": "PIL"}.get(r.name, r.name) for r in DEPENDENCIES} | {
    "pydantic_core",
    "requests",
}
"""What pyproject's dependencies bring, as Python imports it; pooch has requests."""


def sources() -> list[Path]:
    """The package's modules; Triton's kernels belong to the extra ``triton`` as a folder."""
    return sorted((ROOT / "seemore_fast").rglob("*.py"))


def third_party(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """What is imported beyond Python, this package and `BASE`: name of the package, and the statement."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        for name in names:
            package = "tensorboard" if name == "torch.utils.tensorboard" else name.partition(".")[0]
            if package not in BASE | {"seemore_fast"} | sys.stdlib_module_names:
                yield package, node


def optional_packages() -> set[str]:
    return {package for path in sources() for package, _ in third_party(ast.parse(path.read_text()))}


def base_install(folder: Path, *, of_torch: bool = False) -> dict[str, str]:
    """The environment for ``python -S`` that sees this package and what `pip install .` brings, alone.

    ``folder`` gets a link to each module of the distributions that pyproject's dependencies ask for;
    ``of_torch``: those of torch alone.
    """
    waiting = [r for r in DEPENDENCIES if r.name == "torch" or not of_torch]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        for extra in requirement.extras or {""}:
            if (requirement.name, extra) in seen:
                continue
            seen.add((requirement.name, extra))
            distribution = metadata.distribution(requirement.name)
            if distribution.files is None:
                pytest.skip(f"{requirement.name} does not say which files it has: no pip installed it")
            _link(distribution, folder)
            more = [Requirement(text) for text in distribution.requires or []]
            waiting += [r for r in more if r.marker is None or r.marker.evaluate({"extra": extra})]
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}


def _link(distribution: metadata.Distribution, folder: Path) -> None:
    for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__", "bin"}:
        link = folder / top
        if not link.exists():
            link.symlink_to(Path(str(distribution.locate_file(top))).resolve())


def pip_install(folder: Path) -> Path:
    """The Python of a new environment, into which pip installs the dependencies, but for torch.

    That one, of gigabytes, is lent.  Skips the test with pip's reason where there is none to install from.
    """
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    wanted = [str(r) for r in DEPENDENCIES if r.name != "torch"]
    command = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install the dependencies: {done.stderr.strip().splitlines()[-1]}")
    (site,) = folder.glob("lib/python3*/site-packages")
    lent = folder / "torch"
    lent.mkdir()
    base_install(lent, of_torch=True)
    (site / "lent.pth").write_text(f"{ROOT}\n{lent}\n")
    return python
