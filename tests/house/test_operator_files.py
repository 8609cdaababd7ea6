"""CONTRIBUTING's list of the files that an operator touches, against the operators that there are."""

import re
from pathlib import Path

import pytest

from seemore_fast.ops._register import OPERATORS
from tests.support.repository import ROOT

ROWS = re.findall(
    r"^  \| `([^`]+)` \| [^|]+ \| (all|CPU|Triton|CUDA) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M
)
SOURCES = [
    path.relative_to(ROOT).as_posix()
    for folder in ("seemore_fast", "csrc", "kernels")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".h", ".cc", ".cu", ".cuh")
]


def files(name: str) -> dict[str, str]:
    """Of the operator: what they are for, by path; only backends that have it."""
    found = {row.replace("<op>", name): backend for row, backend in ROWS}
    of_cuda = "csrc/cuda/ops/<op>.cu".replace("<op>", name) in SOURCES
    return {path: backend for path, backend in found.items() if backend != "CUDA" or of_cuda}


def test_they_are_at_most_eight():
    assert {backend for _, backend in ROWS} == {"all", "CPU", "Triton", "CUDA"}
    assert len(ROWS) <= 8


@pytest.mark.parametrize("name", OPERATORS)
def test_they_are_there(name):
    assert set(files(name)) <= set(SOURCES)


@pytest.mark.parametrize("name", OPERATORS)
def test_no_other_file_names_it(name):
    """But those of what it is a part of, comments of the C API, and GPUs' table of preferences.

    Engines do not count: their stages have the same names.
    """
    allowed = {path for other in OPERATORS for path in files(other) if Path(path).stem == other}
    allowed |= {"csrc/seemore.h", "csrc/seemore_cuda.h", "seemore_fast/backends/choice.py"}
    allowed |= {"csrc/cpu/ops/ffn_half.h", "csrc/cuda/ops/experts.h"}  # parts of two operators
    allowed |= {"csrc/cpu/ops/network.h"}  # of which blocks are parts
    pattern = re.compile(rf'"{name}"|\b{name}\.(h|cu|py)\b|import {name}\b')
    naming = {path for path in SOURCES if pattern.search((ROOT / path).read_text())}
    assert {path for path in naming if "/engine" not in path} <= {*files(name), *allowed}
