"""No two types of csrc share a name: the linker would merge their inline functions (one-definition rule)."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from tests.support.repository import ROOT

CSRC = ROOT / "csrc"
# Whose interface two libraries implement, which are never linked together: CUDA's driver and the simulator.
ALTERNATIVES = {"seemore::cuda::KernelOnDevice"}

OPENED = re.compile(r"namespace ([\w:]+)? ?\{")
CLOSED = re.compile(r"\}  // namespace")
TYPE = re.compile(r"(?:struct|class|union)(?: __attribute__\(\(.*?\)\))? (\w+)(?: final)?(?: : .*)? \{")


def types(path: Path) -> list[str]:
    """Qualified names of the types that the file defines in namespaces; an unnamed one stands for its file.

    clang-format puts namespaces and what they hold at the line's beginning, and names them where they end.
    """
    found, inside = [], []
    for line in path.read_text().splitlines():
        if match := OPENED.match(line):
            inside.append(match[1] or str(path))
        elif CLOSED.match(line):
            inside.pop()
        elif match := TYPE.match(line):
            found.append("::".join([*inside, match[1]]))
    assert not inside, f"{path}: a namespace's end does not say so"
    return found


def duplicates(paths: list[Path]) -> dict[str, set[Path]]:
    where = defaultdict(set)
    for path in paths:
        for name in types(path):
            where[name].add(path)
    return {name: files for name, files in where.items() if len(files) > 1}


def test_every_type_has_its_own_name():
    paths = [path for path in sorted(CSRC.rglob("*")) if path.suffix in (".h", ".cc", ".cuh", ".cu")]
    assert sum(len(types(path)) for path in paths) > 100
    assert duplicates(paths).keys() == ALTERNATIVES


def test_folders_of_per_isa_code_have_their_namespaces():
    for room in ("engine", "ops"):
        for path in (CSRC / "cpu" / room).glob("*"):
            assert f"namespace {room} {{" in path.read_text() or path.name.endswith("api.cc"), path


def test_a_duplicate_is_found(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.h").write_text("namespace x {\n\nstruct Arena {\n};\n\n}  // namespace x\n")
    assert list(duplicates(sorted(tmp_path.iterdir()))) == ["x::Arena"]
