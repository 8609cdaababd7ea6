"""Other platforms, tried here: the library for ARM64 under QEMU, for Windows under Wine (docs/platforms.md).

tests/native/case_driver.cc gets what Python computed in float64: golden networks, sizes, operators and
training with gradients.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import cases, golden
from tests.support.building import configure, run, tool
from tests.support.operators import CASES
from tests.support.repository import ROOT
from tests.support.small import SMALL

pytestmark = pytest.mark.full

SIZES = [(2, 16, 16), (1, 17, 33), (1, 19, 131), (1, 131, 17), (1, 16, 353)]
MINUTES = 60
"""For one program in an emulator: they take less than five where nothing else runs."""

TRAININGS: list[tuple[dict[str, Any], tuple[int, int, int]]] = [
    (SMALL | {"use_shuffle": True, "recursive": 2}, (2, 16, 19)),
    (SMALL | {"embedding_dim": 7, "topk": 2, "scale": 3, "img_range": 2.0}, (1, 9, 33)),
]
"""Even and odd channels; rows of one and, padded, three vectors of the widest instruction set."""

DEEP = ("rme", "sme", "calibrate")  # whose recursion wants larger images


@dataclass(frozen=True)
class Platform:
    name: str
    compiler: str  # a cross compiler of Debian's, or the target that zig knows
    runner: str
    flags: tuple[str, ...] = ()

    def options(self) -> list[str]:
        """CMake's, for the compiler; skips the test where there is none."""
        if self.compiler.endswith("g++"):
            system = self.compiler.partition("-")[0]
            return [
                f"-DCMAKE_CXX_COMPILER={tool(self.compiler)}",
                *("-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={system}", *self.flags),
            ]
        return ["--toolchain", str(ROOT / ".ci/zig.cmake"), f"-DSEEMORE_TARGET={self.compiler}", *zig()]


def zig() -> list[str]:
    package = importlib.util.find_spec("ziglang")
    if package is None or package.origin is None:
        pytest.skip("ziglang is not installed: pip install ziglang")
    return [f"-DSEEMORE_ZIG={Path(package.origin).with_name('zig')}"]


STATIC = ("-DCMAKE_EXE_LINKER_FLAGS=-static",)
PLATFORMS = [
    Platform("ARM64, GCC", "aarch64-linux-gnu-g++", "qemu-aarch64", STATIC),
    Platform("ARM64, Clang", "aarch64-linux-musl", "qemu-aarch64"),
    Platform("Windows, Clang", "x86_64-windows-gnu", "wine"),
]


class Drivers:
    """The programs of tests/native, for another platform."""

    def __init__(self, platform: Platform, build: Path) -> None:
        self.build, self.runner = build, tool(platform.runner)
        configure(build, "-DSEEMORE_DRIVERS=ON", *platform.options())
        command = [tool("ninja"), "-C", str(build)]
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout

    def __call__(self, name: str, *arguments: str | Path) -> str:
        (program,) = (p for p in self.build.iterdir() if p.stem == name and p.suffix in ("", ".exe"))
        said = self.build / f"{name}.txt"  # a file keeps what was said until the time was over
        with said.open("w") as file:
            try:
                status = subprocess.run(
                    [self.runner, program, *arguments],
                    env={**os.environ, "WINEPREFIX": str(self.build / "wine"), "WINEDEBUG": "-all"},
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    timeout=MINUTES * 60,
                ).returncode
            except subprocess.TimeoutExpired:
                status = None
        text = said.read_text(errors="replace")
        assert status == 0, (
            f"{name}: exit status {status} (None: not done in {MINUTES} minutes); it said:\n{text}"
        )
        return text


@pytest.fixture(scope="module", params=PLATFORMS, ids=lambda platform: platform.name)
def drivers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Drivers:
    return Drivers(request.param, tmp_path_factory.mktemp("cross"))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("networks")
    return [
        *(cases.golden_network(folder / name, name) for name in golden.EVALUATION),
        *(cases.network(folder / "x".join(map(str, size)), SMALL, size) for size in SIZES),
    ]


@pytest.fixture(scope="module")
def operators(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("operators")
    found = []
    for i, case in enumerate(CASES):
        shape = (2, 12, 17, 33) if case.name in DEEP else (2, 7, 5, 33)
        found.append(cases.operator(folder / f"{i}_{case.name}", case, shape))
    return found


def test_networks(drivers: Drivers, networks: list[Path]) -> None:
    """Golden and small ones to 1e-5, every instruction set; bf16 where the processor has it."""
    said = drivers("case_driver", *networks)
    assert said.count(" network: ") >= len(networks)


def test_operators_and_their_gradients(drivers: Drivers, operators: list[Path]) -> None:
    said = drivers("case_driver", *operators)
    assert said.count("want_grad") >= len(operators)


def test_training(drivers: Drivers, tmp_path: Path) -> None:
    """The network's operator, to float32's bounds; with operands in bf16, where there are such, to theirs."""
    files = [cases.training(tmp_path / f"{i}", *case) for i, case in enumerate(TRAININGS)]
    said = drivers("case_driver", *files)
    assert said.count(" train: ") >= len(files)
    assert ("bf16 train: " in said) == ("neonbf16" in said)


def test_engine_in_poisoned_memory_and_tiles(drivers: Drivers) -> None:
    drivers("engine_driver")


def test_thread_pool(drivers: Drivers) -> None:
    drivers("pool_stress", "without-fork")


@pytest.mark.parametrize("target", ["x86_64-macos.11.0", "aarch64-macos.11.0"])
def test_macos_links(target: str, tmp_path: Path) -> None:
    """There is nothing here to run it on."""
    configure(
        tmp_path,
        *("-DSEEMORE_DRIVERS=ON", "--toolchain", str(ROOT / ".ci/zig.cmake")),
        *(f"-DSEEMORE_TARGET={target}", *zig()),
    )
    run(tool("ninja"), "-C", tmp_path, "case_driver")
