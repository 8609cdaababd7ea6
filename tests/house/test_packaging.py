"""The package as pip makes it: sdist, wheel, with and without a compiler; nothing of the tree is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

import seemore_fast
from tests.house.test_repository import ROOT, tracked_files
from tests.support.building import tool

pytestmark = pytest.mark.full

BUILD = "import sys, setuptools.build_meta as b; b.build_{}(sys.argv[1])"

INSTALLED = """
import importlib.metadata, pathlib, sys
# An editable install of the source tree would find what the wheel lacks.
sys.meta_path = [f for f in sys.meta_path if "__editable__" not in getattr(f, "__module__", "")]
import numpy as np
import seemore_fast, seemore_fast.kernels
from seemore_fast.backends import native
from seemore_fast.network import weights
from seemore_fast.network.weights import catalogue

site = pathlib.Path(sys.argv[1])
assert pathlib.Path(seemore_fast.__file__).is_relative_to(site), seemore_fast.__file__
assert pathlib.Path(seemore_fast.kernels.__file__).is_relative_to(site)
assert importlib.metadata.version("seemore-fast") == seemore_fast.__version__
assert all(weights.path(name).with_suffix(".md").is_file() for name in weights.names())
assert "official/t-x4" in catalogue.known()
large = seemore_fast.Upscaler("t-x4", backend=sys.argv[2]).up(np.full((16, 20, 3), 128, np.uint8))
assert large.shape == (64, 80, 3)
print("works", native.lib is not None, native.error)
"""

INFO = INSTALLED.partition("import numpy")[0] + "from seemore_fast.cli import app; app(['info'])"

Python = Callable[..., str]


@pytest.fixture
def python(tmp_path: Path) -> Python:
    """Runs code in a process of its own, with this environment's tools; gives what it printed."""
    for module in ("setuptools", "pybind11"):
        pytest.importorskip(module, reason=f"{module} is not installed: the package cannot be built")
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": tools, "SEEMORE_CUDA": "off"}

    def run(code: str, *arguments: str | Path, cwd: Path, ok: bool = True, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=cwd,
            env={**environment, **variables},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
        )
        assert (done.returncode == 0) == ok, done.stdout
        return done.stdout

    return run


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the repository's files."""
    copy = tmp_path / "tree"
    for path in tracked_files():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return copy


def unpacked(wheel_in: Path) -> Path:
    (wheel,) = wheel_in.glob("*.whl")
    site = wheel_in / "sïte 包 packages"
    shutil.unpack_archive(wheel, site, "zip")
    return site


def test_wheel_from_sdist_works_without_the_source_tree(tmp_path: Path, tree: Path, python: Python) -> None:
    """Sources -> sdist -> wheel, each from what the one before holds; then only the wheel is left."""
    python(BUILD.format("sdist"), tmp_path, cwd=tree)
    shutil.rmtree(tree)
    (sdist,) = tmp_path.glob("seemore_fast-*.tar.gz")
    shutil.unpack_archive(sdist, tmp_path)
    sources = (tmp_path / sdist.name.removesuffix(".tar.gz")).rename(tmp_path / "söurces 源")
    # As pip brings its own ninja each time, in a folder that is gone the next time.
    tools = tmp_path / "tools"
    tools.mkdir()
    shutil.copy2(tool("ninja"), tools)
    path = f"{tools}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    python(BUILD.format("wheel"), tmp_path / "1", cwd=sources, SEEMORE_NATIVE="on", PATH=path)
    shutil.rmtree(tools)
    python(BUILD.format("wheel"), tmp_path / "2", cwd=sources, CXX="/nowhere/c++")
    assert not list(unpacked(tmp_path / "2").rglob("*.so")), "what an earlier build left"
    python(BUILD.format("wheel"), tmp_path, cwd=sources, SEEMORE_NATIVE="on")
    shutil.rmtree(sources)
    site = unpacked(tmp_path)

    dist_info = f"seemore_fast-{seemore_fast.__version__}.dist-info"
    assert {path.name for path in site.iterdir()} == {"seemore_fast", dist_info}
    assert (site / dist_info / "licenses/LICENSE").is_file()
    assert {p.name for p in (site / "seemore_fast").iterdir()} >= {"py.typed", "kernels", "network"}
    assert (site / "seemore_fast/csrc/cuda/engine/rme.cu").is_file(), "for NVRTC"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    console = {"PYTHONIOENCODING": "cp1252", "LC_ALL": "C", "PYTHONDONTWRITEBYTECODE": "1"}
    said = python(INSTALLED, site, "cpu", cwd=elsewhere, PYTHONPATH=str(site), **console)
    assert said.startswith("works True")


def test_without_a_compiler_the_package_is_plain_pytorch_and_says_why(
    tmp_path: Path, tree: Path, python: Python
) -> None:
    message = python(BUILD.format("wheel"), tmp_path, cwd=tree, CXX="/nowhere/c++", CC="/nowhere/cc")
    assert "plain PyTorch package" in message
    site = unpacked(tmp_path)
    assert not list(site.rglob("*.so"))
    said = python(INSTALLED, site, "auto", cwd=tmp_path, PYTHONPATH=str(site)).strip()
    assert said.startswith("plain PyTorch computes, which is slower: the native library does not load: ")
    assert "no working C++20 compiler was found" in said.partition("works False")[2]
    shown = python(INFO, cwd=tmp_path, PYTHONPATH=str(site), COLUMNS="250")
    assert "no working C++20 compiler was found" in shown


@pytest.mark.parametrize(
    ("toolchain", "reason"),
    [
        # A compiler of another maker, as far as CMake knows.
        (
            "set(CMAKE_CXX_COMPILER_ID MSVC)\nset(CMAKE_CXX_COMPILER_ID_RUN 1)\n"
            "set(CMAKE_CXX_COMPILER_FORCED 1)\n",
            "the C++ compiler MSVC has no vector extensions: take GCC 12 or newer, or Clang 15",
        ),
        # Debian's python3 without python3-dev.
        (
            f"set(CMAKE_IGNORE_PATH {sysconfig.get_path('include')})\n",
            "Python's headers were not found; install python3-dev or python3-devel",
        ),
    ],
    ids=["refused compiler", "no headers"],
)
def test_what_cannot_build_leaves_plain_pytorch(
    tmp_path: Path, tree: Path, python: Python, toolchain: str, reason: str
) -> None:
    file = tmp_path / "toolchain.cmake"
    file.write_text(toolchain)
    python(BUILD.format("wheel"), tmp_path, cwd=tree, CMAKE_TOOLCHAIN_FILE=str(file))
    assert reason in (unpacked(tmp_path) / "seemore_fast/native_missing.txt").read_text()


def test_a_compiler_that_speaks_no_utf8_fails_without_an_error(
    tmp_path: Path, tree: Path, python: Python
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_bytes(b"#!/bin/sh\necho '\xfcberall \xe7\x8c\xab kaputt'\nexit 1\n")
    compiler.chmod(0o755)
    console = {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0", "LC_ALL": "C"}
    message = python(BUILD.format("wheel"), tmp_path, cwd=tree, CXX=str(compiler), **console)
    assert "kaputt" in message
    assert "no working C++20 compiler" in (unpacked(tmp_path) / "seemore_fast/native_missing.txt").read_text()


def test_an_editable_install_without_a_compiler_keeps_the_reason(
    tmp_path: Path, tree: Path, python: Python
) -> None:
    (tree / "seemore_fast" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}").touch()  # of an earlier build
    python(BUILD.format("editable"), tmp_path, cwd=tree, CXX="/nowhere/c++")
    code = (
        INSTALLED.partition("import numpy")[0]
        + "from seemore_fast.backends import native\nprint(native.error)"
    )
    said = python(code, cwd=tree, PYTHONPATH=str(tree))
    assert "no working C++20 compiler was found (CXX=/nowhere/c++)" in said


def test_an_editable_install_keeps_the_kernels_that_were_compiled_ahead(
    tmp_path: Path, tree: Path, python: Python
) -> None:
    cmake = tmp_path / "cmake"  # stands in for a build of minutes
    made = f'touch "$folder/cuda_kernels.zip" "$folder/_C{sysconfig.get_config_var("EXT_SUFFIX")}"'
    cmake.write_text(
        "#!/bin/sh\nfor word; do case $word in -DSEEMORE_OUTPUT_DIR=*) folder=${word#*=}\n"
        f'mkdir -p "$folder"; {made};; esac; done\n'
    )
    cmake.chmod(0o755)
    python(BUILD.format("editable"), tmp_path, cwd=tree, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert (tree / "seemore_fast/cuda_kernels.zip").is_file()
    assert not (tree / "seemore_fast/native_missing.txt").exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SEEMORE_NATIVE": "yes"}, "error: SEEMORE_NATIVE must be auto, on or off, got 'yes'"),
        ({"SEEMORE_CUDA": "on"}, "error: seemore_fast._C was not built: no working C++20 compiler"),
    ],
    ids=["garbage", "CUDA on"],
)
def test_wishes_that_cannot_be_met_are_errors(
    tmp_path: Path, tree: Path, python: Python, variables: dict[str, str], message: str
) -> None:
    said = python(BUILD.format("wheel"), tmp_path, cwd=tree, ok=False, **{"CXX": "/nowhere/c++", **variables})
    assert message in said
    assert not list(tmp_path.glob("*.whl"))


def test_without_a_compiler_whoever_insists_gets_an_error(tmp_path: Path, tree: Path, python: Python) -> None:
    message = python(
        BUILD.format("wheel"), tmp_path, cwd=tree, ok=False, CXX="/nowhere/c++", SEEMORE_NATIVE="on"
    )
    assert "error: seemore_fast._C was not built: no working C++20 compiler" in message
    assert not list(tmp_path.glob("*.whl"))


def test_the_library_can_be_left_out(tmp_path: Path, tree: Path, python: Python) -> None:
    python(BUILD.format("wheel"), tmp_path, cwd=tree, SEEMORE_NATIVE="off")
    assert "SEEMORE_NATIVE=off" in (unpacked(tmp_path) / "seemore_fast/native_missing.txt").read_text()
