"""What importing the package costs: nothing beyond torch, and optional packages only when they are used."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.packages import optional_packages


def imported_by(*steps: str) -> list[set[str]]:
    """Top-level modules that each of ``steps`` adds, one after the other in one process."""
    lines = ["import json, sys", "seen, found = set(sys.modules), []"]
    for step in steps:
        lines += [step, "found.append(sorted(set(sys.modules) - seen))", "seen = set(sys.modules)"]
    command = [sys.executable, "-c", "\n".join([*lines, "print(json.dumps(found))"])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return [{name.partition(".")[0] for name in added} for added in json.loads(done.stdout)]


def test_the_command_line_starts_without_torch() -> None:
    (added,) = imported_by("import seemore_fast, seemore_fast.cli")
    assert not added & {"torch", "numpy", *optional_packages()}


def test_no_optional_package_is_imported() -> None:
    """Beyond those that torch imports, where they are installed."""
    names = ["SeemoRe", "load", "ops", "Upscaler"]
    steps = [f"seemore_fast.{name}" for name in names]
    _, *added = imported_by("import torch, seemore_fast", *steps)
    optional = optional_packages()
    assert not {name: found & optional for name, found in zip(names, added, strict=True) if found & optional}


def test_an_upscaling_loads_no_compiler() -> None:
    """torch._dynamo, by itself or by a decorator, takes longer to import than all the rest."""
    call = "seemore_fast.load('t-x4')(torch.rand(1, 3, 8, 8))"
    _, added = imported_by("import torch, seemore_fast", call)
    assert not added & {"sympy", "triton"}, "torch._dynamo imports sympy"
