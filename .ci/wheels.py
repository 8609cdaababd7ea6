#!/usr/bin/env python3
"""Wheels of every platform and Python in docs/platforms.md, cross-compiled on Linux; run by .ci/run wheels.

    python .ci/wheels.py [--headers FOLDER ...] [--platforms NAME ...] [--build FOLDER] [--output FOLDER]

Clang and the platforms' libraries come from the package ziglang. Of a Python its headers are enough: they are
the same on every platform but for pyconfig.h, and Linux's serves macOS too, for what differs there is in
pymacconfig.h. For each platform the library is compiled once, its Python module once for each Python; the
rest of a wheel is the package as pip makes it without the library. Prints the wheels with their sizes, and
what is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pybind11

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = [f"3.{minor}" for minor in range(10, 15)]
LARGEST = 10_000_000
"""Bytes of a wheel without CUDA kernels."""


@dataclass(frozen=True)
class Platform:
    target: str  # as Zig writes it
    suffix: str  # of a module's file; VERSION as in 311
    check: tuple[str, ...]  # the command that looks for libraries that its users may lack


PLATFORMS = {
    "manylinux_2_28_x86_64": Platform(
        "x86_64-linux-gnu.2.28", ".cpython-VERSION-x86_64-linux-gnu.so", ("auditwheel", "show")
    ),
    "manylinux_2_28_aarch64": Platform(
        "aarch64-linux-gnu.2.28", ".cpython-VERSION-aarch64-linux-gnu.so", ("auditwheel", "show")
    ),
    "macosx_11_0_arm64": Platform("aarch64-macos.11.0", ".cpython-VERSION-darwin.so", ("delocate-listdeps",)),
    "macosx_11_0_x86_64": Platform("x86_64-macos.11.0", ".cpython-VERSION-darwin.so", ("delocate-listdeps",)),
    "win_amd64": Platform("x86_64-windows-gnu", ".cpVERSION-win_amd64.pyd", ("delvewheel", "show")),
}

WINDOWS_PYCONFIG = """
#define MS_WINDOWS
#define MS_WIN32
#define MS_WIN64
#define NT_THREADS
#define Py_ENABLE_SHARED 1
#define HAVE_DECLSPEC_DLL
#define HAVE_ERRNO_H 1
#define HAVE_SSIZE_T 1
#define HAVE_SYS_STAT_H 1
#define HAVE_SYS_TYPES_H 1
#define HAVE_WCHAR_H 1
#define HAVE_COPYSIGN 1
#define HAVE_HYPOT 1
#define HAVE_ROUND 1
#define HAVE_DECL_ISFINITE 1
#define HAVE_DECL_ISINF 1
#define HAVE_DECL_ISNAN 1
#define SIZEOF_INT 4
#define SIZEOF_LONG 4
#define SIZEOF_LONG_LONG 8
#define SIZEOF_SIZE_T 8
#define SIZEOF_TIME_T 8
#define SIZEOF_VOID_P 8
#define SIZEOF_WCHAR_T 2
#define ALIGNOF_MAX_ALIGN_T 8
#define WITH_DOC_STRINGS 1
#define WITH_PYMALLOC 1
"""
"""What Python's headers ask of Windows on x86-64; its interpreter is linked as a DLL."""

DECLARED = re.compile(r"PyAPI_(FUNC|DATA)\s*\(.*?\)\s*\**\s*(\w+)", re.DOTALL)


@dataclass(frozen=True)
class Python:
    version: str  # as in 3.11
    headers: Path

    @property
    def tag(self) -> str:
        return self.version.replace(".", "")

    def headers_for(self, platform: str, build: Path) -> Path:
        """Where the platform's are; copied, for Python.h takes the pyconfig.h beside it."""
        if not platform.startswith("win"):
            return self.headers
        copy = build / f"headers-{self.version}"
        if not copy.is_dir():
            shutil.copytree(self.headers, copy)
            (copy / "pyconfig.h").write_text(WINDOWS_PYCONFIG)
        return copy

    def import_library(self, zig: Path, build: Path) -> Path:
        """Says that what the headers declare is in Python's DLL."""
        library = build / f"libpython{self.tag}.a"
        if not library.is_file():
            found = {
                (name, kind)
                for header in self.headers.rglob("*.h")
                if "internal" not in header.parts
                for kind, name in DECLARED.findall(header.read_text(encoding="utf-8"))
            }
            names = [f"  {name}{' DATA' if kind == 'DATA' else ''}" for name, kind in sorted(found)]
            exports = library.with_suffix(".def")
            exports.write_text("\n".join([f"LIBRARY python{self.tag}.dll", "EXPORTS", *names, ""]))
            run(zig, "dlltool", "-m", "i386:x86-64", "-d", exports, "-l", library)
        return library


def run(*command: str | Path, **variables: str) -> None:
    print("+", *command, flush=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run([str(word) for word in command], check=True, env={**os.environ, "PATH": path, **variables})


def zig_program() -> Path:
    package = importlib.util.find_spec("ziglang")
    if package is None or package.origin is None:
        sys.exit("error: the package ziglang is not installed: pip install ziglang")
    return Path(package.origin).with_name("zig")


def pythons(folders: list[Path]) -> list[Python]:
    """Those whose headers are in the folders, or belong to an interpreter on the PATH."""
    ask = "import sysconfig; print(sysconfig.get_path('include'))"
    for version in PYTHONS:
        done = subprocess.run(["env", f"python{version}", "-c", ask], text=True, capture_output=True)
        if done.returncode == 0:
            folders = [*folders, Path(done.stdout.strip())]
    found: dict[str, Python] = {}
    for folder in folders:
        header = folder / "patchlevel.h"
        if header.is_file() and (folder / "pyconfig.h").is_file():
            major, minor, *_ = re.findall(r"PY_(?:MAJOR|MINOR)_VERSION\s+(\d+)", header.read_text())
            found.setdefault(f"{major}.{minor}", Python(f"{major}.{minor}", folder))
    for version in PYTHONS:
        if version not in found:
            print(
                f"missing: the headers of Python {version}, so no wheel for it; --headers takes their folder"
            )
    return [found[version] for version in PYTHONS if version in found]


def plain(build: Path) -> Path:
    """The package without its library, unpacked."""
    wheels, unpacked = build / "plain", build / "unpacked"
    for folder in (wheels, unpacked):
        shutil.rmtree(folder, ignore_errors=True)
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation")
    run(*pip, "-w", wheels, ROOT, SEEMORE_NATIVE="off")
    (wheel,) = wheels.glob("*.whl")
    run(sys.executable, "-m", "wheel", "unpack", "-d", unpacked, wheel)
    (tree,) = unpacked.iterdir()
    (tree / "seemore_fast/native_missing.txt").unlink()
    return tree


def module(python: Python, name: str, build: Path, zig: Path) -> Path:
    """Compiles seemore_fast._C; what of it no Python is in is compiled for the first one only."""
    platform, folder, output = PLATFORMS[name], build / name, build / f"{name}-{python.tag}"
    shutil.rmtree(output, ignore_errors=True)
    options = {
        "SEEMORE_ZIG": zig,
        "SEEMORE_TARGET": platform.target,
        "SEEMORE_CUDA": "off",
        # What is left is a tenth; for macOS the linker crashes on it, and has written no more anyway.
        "CMAKE_MODULE_LINKER_FLAGS": "" if name.startswith("macosx") else "-s",
        "SEEMORE_OUTPUT_DIR": output,
        "Python_INCLUDE_DIR": python.headers_for(name, build),
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "PYBIND11_USE_CROSSCOMPILING": "ON",
        "PYTHON_IS_DEBUG": "OFF",
        "PYTHON_MODULE_DEBUG_POSTFIX": "",
        "PYTHON_MODULE_EXTENSION": platform.suffix.replace("VERSION", python.tag),
    }
    if name.startswith("win"):
        options["Python_LIBRARY"] = python.import_library(zig, build)
    given = [f"-D{key}={value}" for key, value in options.items()]
    run("cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "--toolchain", ROOT / ".ci/zig.cmake", *given)
    run("cmake", "--build", folder, "--target", "_C")
    return output / f"_C{options['PYTHON_MODULE_EXTENSION']}"


def packed(tree: Path, compiled: Path, python: Python, name: str, output: Path) -> Path:
    """The package with the module, as a wheel of its Python and platform."""
    inside = tree / "seemore_fast" / compiled.name
    shutil.copy2(compiled, inside)
    try:
        work = compiled.parent
        run(sys.executable, "-m", "wheel", "pack", "-d", work, tree)
        (wheel,) = work.glob("*.whl")
        tags = [f"--python-tag=cp{python.tag}", f"--abi-tag=cp{python.tag}", f"--platform-tag={name}"]
        run(sys.executable, "-m", "wheel", "tags", "--remove", *tags, wheel)
        (wheel,) = work.glob("*.whl")
        return Path(shutil.copy2(wheel, output))
    finally:
        inside.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--headers", nargs="+", type=Path, default=[], help="of Pythons not on the PATH")
    parser.add_argument("--platforms", nargs="+", choices=PLATFORMS, default=list(PLATFORMS))
    parser.add_argument("--build", type=Path, default=ROOT / "build/wheels", help="kept, to go on from")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    options = parser.parse_args()
    build: Path = options.build.resolve()
    for folder in (build, options.output):
        folder.mkdir(parents=True, exist_ok=True)
    found, zig, tree = pythons(options.headers), zig_program(), plain(build)
    made = []
    for name in options.platforms:
        for python in found:
            wheel = packed(tree, module(python, name, build, zig), python, name, options.output)
            made.append(wheel)
            if name.startswith("macosx") and shutil.which("otool") is None:
                print(f"not checked: {wheel.name}; delocate reads libraries with macOS's otool")
            else:
                run(*PLATFORMS[name].check, wheel)
    for wheel in made:
        size = wheel.stat().st_size
        print(f"{size / 1e6:5.1f} MB  {wheel.name}")
        if size > LARGEST:
            sys.exit(f"error: {wheel.name} is larger than {LARGEST / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
