"""The rooms of the package: imports run downwards only, between rooms and modules, never in a circle."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.repository import ROOT

ROOMS = [
    *(
        "errors",
        "system",
        "network",
        "backends",
        "kernels",
        "ops",
        "engines",
        "model",
        "image",
        "data",
        "upscale",
    ),
    *(
        "video",
        "options",
        "evaluate",
        "train",
        "export",
        "measure",
        "compare",
        "demo",
        "serve",
        "plugins",
        "cli",
    ),
]
"""From the ground up; docs/architecture.md draws it.  A room imports from those before it."""

ENTRIES = {"seemore_fast.train.__main__"}
"""What starts the command line, as ``torchrun -m`` wants it."""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name; the Triton kernels' as they are installed."""
    found = {}
    for folder, package in (
        (ROOT / "seemore_fast", "seemore_fast"),
        (ROOT / "kernels", "seemore_fast.kernels"),
    ):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def imported_names(tree: ast.AST, name: str, is_package: bool) -> set[str]:
    """What the statements name, absolute, whether a module or something in one."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: len(name.split(".")) + is_package - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


@cache
def imports(*, types_too: bool) -> dict[str, set[str]]:
    """Module -> modules of ours that it imports anywhere; ``types_too``: also for type checkers only."""
    known = modules()
    graph = {}
    for name, path in known.items():
        tree = ast.parse(path.read_text())
        if not types_too:
            for node in ast.walk(tree):
                if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                    node.body = []
        named = imported_names(tree, name, path.name == "__init__.py")
        named.discard("seemore_fast._C")  # the native library
        targets = {target if target in known else target.rpartition(".")[0] for target in named}
        graph[name] = {target for target in targets if target in known and target != name}
    return graph


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_module_has_a_room() -> None:
    assert {room(module) for module in modules()} - {""} == set(ROOMS)


def test_no_import_runs_upwards() -> None:
    upwards = [
        f"{module} -> {target}"
        for module, targets in imports(types_too=True).items()
        for target in targets
        if room(module) and room(target) and module not in ENTRIES
        if ROOMS.index(room(target)) > ROOMS.index(room(module))
    ]
    assert not upwards


@pytest.mark.parametrize("module", ENTRIES)
def test_an_entry_is_imported_by_nobody(module: str) -> None:
    assert not [name for name, targets in imports(types_too=True).items() if module in targets]


def test_no_import_runs_in_a_circle() -> None:
    TopologicalSorter(imports(types_too=False)).prepare()  # raises CycleError, which names them


def test_nothing_below_imports_the_package_itself() -> None:
    """`seemore_fast` gathers the public names from above; whoever needs one takes it from its own room."""
    takers = {name for name, targets in imports(types_too=True).items() if "seemore_fast" in targets}
    assert not {name for name in takers if ROOMS.index(room(name)) < ROOMS.index("upscale")}


def test_tests_are_no_part_of_the_package() -> None:
    import seemore_fast

    assert not [folder for folder in seemore_fast.__path__ if (Path(folder) / "tests").is_dir()]
