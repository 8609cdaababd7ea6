"""The engine under sanitizers: tests/native/engine_driver.cc, built with the flags of the real build."""

from __future__ import annotations

import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from seemore_fast.backends import native
from tests.support.building import configure, run, tool
from tests.support.isas import ISAS
from tests.support.repository import ROOT

pytestmark = pytest.mark.full

DRIVER = "tests/native/engine_driver.cc"


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """CMake's compiler calls for the torch-free library, without their output files."""
    pytest.importorskip("pybind11", reason="pybind11 is not installed: CMake cannot configure the build")
    build = tmp_path_factory.mktemp("commands")
    configure(build, "-DSEEMORE_CUDA=off")
    found, status = [], "csrc/status.cc"
    for entry in json.loads((build / "compile_commands.json").read_text()):
        words = shlex.split(entry["command"])
        name = entry["file"]
        if "csrc/cpu/" in name or (name.endswith(status) and not any(w[-1].endswith(status) for w in found)):
            at = words.index("-o")
            found.append(words[:at] + words[at + 2 :])
    assert len(found) >= 5
    # The slowest first: two compilers at a time finish sooner.
    return sorted(found, key=lambda words: not words[-1].endswith("engine/run.cc"))


def build_driver(folder: Path, commands: list[list[str]], flags: list[str]) -> Path:
    flags = ["-O1", "-g1", "-fno-omit-frame-pointer", *flags]
    (baseline,) = (words for words in commands if words[-1].endswith("pack.cc"))
    driver = [*baseline[:-1], str(ROOT / DRIVER)]

    def compile_one(numbered: tuple[int, list[str]]) -> str:
        number, words = numbered
        output = str(folder / f"{number}.o")
        run(*words, *flags, "-o", output)
        return output

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, enumerate([*commands, driver])))
    program = folder / "engine_driver"
    run(tool("g++"), *flags, "-pthread", *objects, "-o", program)
    return program


def test_addresses_and_undefined_behaviour(commands, tmp_path):
    """On every instruction set: they differ in how far whole vectors reach."""
    # Without the checks that take longest to compile and tell nothing more about pointers than addresses do.
    costly = "-fno-sanitize=null,alignment,object-size,pointer-overflow"
    flags = ["-fsanitize=address,undefined", costly, "-fno-sanitize-recover=all"]
    run(build_driver(tmp_path, commands, flags))


@pytest.mark.skipif(not ISAS, reason=f"no native library: {native.error}")
def test_data_races(commands, tmp_path):
    """On the newest instruction set, for time: the threads' shares of the work are the same on all."""
    out = run(build_driver(tmp_path, commands, ["-fsanitize=thread"]), ISAS[-1])
    assert "WARNING" not in out
