"""The build itself: what the library exports, that no ISA leaks, sanitizers, CMake's refusals."""

from __future__ import annotations

import runpy
from collections import defaultdict
from pathlib import Path

import pytest

from seemore_fast.backends import native
from tests.support.building import configure, run, tool
from tests.support.repository import ROOT

# What CMake and compilers say, cut short; and what setup.py makes of it.
REASONS = [
    (
        'CMake Error: CMake was unable to find a build program corresponding to "Ninja".\n'
        "CMake Error: CMAKE_CXX_COMPILER not set, after EnableLanguage\n",
        "ninja was not found; pip install ninja",
    ),
    (
        "CMake Error at CMakeLists.txt:6 (project):\n  No CMAKE_CXX_COMPILER could be found.\n\n",
        "no working C++20 compiler was found (CXX=/nowhere/c++); install ",
    ),
    (
        'CMake Error at Test.cmake:73 (message):\n  The C++ compiler\n\n    "/nowhere/c++"\n\n'
        "  is not able to compile a simple test program.\n",
        "no working C++20 compiler was found (CXX=/nowhere/c++)",
    ),
    (
        "CMake Error at Find.cmake:290 (message):\n  Could NOT find Python (missing: Python_INCLUDE_DIRS)\n",
        "Python's headers were not found; install ",
    ),
    (
        'CMake Error at CMakeLists.txt:190 (find_package):\n  Could not find a package file "pybind11"\n'
        "  with any of the following names:\n\n    pybind11Config.cmake\n",
        "pybind11 was not found; pip install pybind11",
    ),
    (
        "-- The CXX compiler identification is MSVC 19\nCMake Error at CMakeLists.txt:31 (message):\n"
        "  the C++ compiler MSVC has no vectors: take GCC 12\n  or newer\n\n\n-- Configuring incomplete\n",
        "the C++ compiler MSVC has no vectors: take GCC 12 or newer",
    ),
    ("FAILED: api.cc.o\napi.cc:7:3: error: no\n7 | x\nninja: stopped\n", "api.cc:7:3: error: no"),
    ("ninja: stopped\n", "ninja: stopped"),
    ("", "no message"),
]

NVCC_PLACES = ("usr/bin/nvcc", "usr/local/bin/nvcc", "usr/local/cuda*/bin/nvcc", "opt/cuda/bin/nvcc")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configured build folder."""
    pytest.importorskip("pybind11", reason="pybind11 is not installed: CMake cannot configure the build")
    path = tmp_path_factory.mktemp("build")
    configure(path, "-DSEEMORE_CUDA=off")
    return path


def test_only_the_module_and_the_c_api_are_exported():
    library = Path(native.require().__file__)
    lines = run(tool("nm"), "-D", "--defined-only", library).splitlines()
    names = {line.split()[-1] for line in lines}
    assert "PyInit__C" in names
    assert "sm_isa" in names
    assert not {name for name in names if name != "PyInit__C" and not name.startswith("sm_")}


@pytest.mark.full
def test_no_code_of_one_isa_can_replace_another(build):
    """The linker merges a weak symbol of two objects, and may keep the one that this CPU cannot run."""
    run(tool("ninja"), "-C", build, *isa_targets(build))
    objects = sorted(build.glob("CMakeFiles/seemore_cpu_*.dir/csrc/cpu/*/*.o"))
    assert objects
    weak: dict[str, set[str]] = defaultdict(set)  # symbol -> ISAs that define it
    tables = set()
    for path in objects:
        isa = path.relative_to(build).parts[1].removeprefix("seemore_cpu_").removesuffix(".dir")
        for line in run(tool("nm"), "-C", "--defined-only", path).splitlines():
            _, kind, name = line.split(maxsplit=2)
            if kind in "WwVvu":
                weak[name].add(isa)
            if kind == "T":
                assert name.startswith(f"seemore::{isa}::"), f"{path.name} exports {name}"
                tables.add(name)
    assert len(tables) == len(objects), "each per-ISA file exports one table"
    assert not [name for name, isas in weak.items() if len(isas) > 1]


def isa_targets(build: Path) -> list[str]:
    listed = run(tool("ninja"), "-C", build, "-t", "targets", "all")
    return [word[:-1] for word in listed.split() if word.startswith("seemore_cpu_") and word[-1] == ":"]


def test_the_header_is_c99():
    run(
        tool("gcc"),
        *["-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only", "-xc"],
        "csrc/seemore.h",
    )


@pytest.mark.parametrize(
    "sanitizer",
    [None, *(pytest.param(kind, marks=pytest.mark.full) for kind in ("thread", "address,undefined"))],
)
def test_the_thread_pool_under_stress(sanitizer, tmp_path):
    program = tmp_path / "pool_stress"
    flags = ["-O1", "-g", "-std=c++20", "-pthread", "-Icsrc", "-DSM_ISA=stress"]
    if sanitizer:
        flags += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
    sources = ["tests/native/pool_stress.cc", "csrc/cpu/isa/pool.cc", "csrc/cpu/isa/openmp.cc"]
    run(tool("g++"), *flags, *sources, "-ldl", "-o", program)
    run(program, *(["without-fork"] if sanitizer == "thread" else []))


@pytest.mark.parametrize(("said", "reason"), REASONS)
def test_why_the_library_was_not_built_is_one_line(said, reason, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    found = runpy.run_path(str(ROOT / "setup.py"))["_reason"](said)
    assert found.startswith(reason)
    assert "\n" not in found


def test_unknown_options_are_refused(tmp_path):
    assert "SEEMORE_CUDA must be auto, on or off" in configure(tmp_path, "-DSEEMORE_CUDA=yes", ok=False)
    refused = configure(tmp_path / "2", "-DSEEMORE_SANITIZE=memory", ok=False)
    assert "SEEMORE_SANITIZE must be address, undefined or thread" in refused


def test_cuda_on_without_nvcc_is_refused(tmp_path, monkeypatch):
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    places = [path.parent for pattern in NVCC_PLACES for path in Path("/").glob(pattern)]
    hide = ";".join(map(str, places))
    out = configure(tmp_path, "-DSEEMORE_CUDA=on", f"-DCMAKE_IGNORE_PATH={hide}", ok=False)
    assert "SEEMORE_CUDA=on, but nvcc was not found" in out


def test_cuda_off_says_so(tmp_path):
    pytest.importorskip("pybind11", reason="pybind11 is not installed: CMake cannot configure the build")
    assert "CUDA: off" in configure(tmp_path, "-DSEEMORE_CUDA=off")
