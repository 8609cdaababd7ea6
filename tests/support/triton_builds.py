"""Compiles every Triton kernel for GPUs that are not here, and reads what it takes of them.

python tests/support/triton_builds.py                    compares all builds with the json beside it
python tests/support/triton_builds.py --update           writes that; a minute on two cores
python tests/support/triton_builds.py --only pointwise   builds whose name has this in it

What is compiled is what the ops launch: `record` runs each op, forward and backward, with launches written
down instead of carried out.  A build's name says kernel, constants, dtype, configuration and target; its
figures are registers of a thread, bytes of shared memory of a block, and bytes of a thread's stack, where
spilled registers go.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from seemore_fast.kernels import _configs
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.operators import CASES, Case

RATCHET = Path(__file__).with_suffix(".json")
VERSION = "3.7.1"  # of Triton, which the figures depend on; constraints.txt has the same
TARGETS = (80, 90, 100)
DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int32: "i32"}
FIELDS = ("registers", "shared", "stack")


@dataclass(frozen=True)
class Build:
    """One kernel, specialised: module and function, dtype and width, constants, signature, configuration."""

    module: str
    function: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    config: _configs.Config
    dtype: str
    target: int

    @property
    def name(self) -> str:
        skip = ("TILE", "DOT", "PRECISION", "CP", "EP", "RP")
        values = [f"{k}={v}" for k, v in self.constants if k.isupper() and k not in skip]
        return " ".join(
            [f"{self.module}.{self.function}", *values, self.dtype, self.config.name, f"sm_{self.target}"]
        )

    def figures(self) -> dict[str, int]:
        fn = getattr(import_module(f"seemore_fast.kernels.{self.module}"), self.function)
        signature, constants = dict(self.signature), dict(self.constants)
        position = {name: i for i, name in enumerate(fn.arg_names)}
        # As the launcher has it for images whose sides are multiples of 16.
        aligned = {
            (position[name],): [["tt.divisibility", 16]]
            for name, kind in signature.items()
            if kind.startswith("*") or kind == "i32"
        }
        constants = {k: tl.dtype(v[3:]) if str(v).startswith("tl.") else v for k, v in constants.items()}
        source = ASTSource(fn, signature=signature, constexprs=constants, attrs=aligned)
        options = {"num_warps": self.config.warps, "num_stages": self.config.stages}
        built = triton.compile(source, target=GPUTarget("cuda", self.target, 32), options=options)
        usage = _resources(built.asm["cubin"])
        return {"registers": usage["REG"], "shared": built.metadata.shared, "stack": usage["STACK"]}


def _resources(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tool, "-res-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK):(\d+)", text)}


def record(channels: int, dtype: torch.dtype, every_config: bool) -> set[Build]:
    """What the ops compile for this width and dtype, in every named configuration or the default."""
    seen = set()

    def instead(
        kernel: Any, grid: Any, config: _configs.Config, args: Any, constants: dict[str, Any]
    ) -> None:
        seen.add((kernel, config, tuple(map(_kind, args)), tuple(constants.items())))

    names = {config.name for configs in _configs.CONFIGS.values() for config in configs}
    run, _configs.run = _configs.run, instead
    try:
        for name in names if every_config else [""]:
            with _configs.using(name):
                for case in CASES:
                    _run_once(case, channels, dtype)
    finally:
        _configs.run = run
    builds = set()
    for kernel, config, kinds, constants in seen:
        fixed = {k: f"tl.{v.name}" if isinstance(v, tl.dtype) else v for k, v in constants}
        names = kernel.arg_names
        signature = dict(zip(names, kinds, strict=False)) | dict.fromkeys([*fixed, "TILE"], "constexpr")
        fixed |= {name: None for name, kind in signature.items() if kind == "constexpr" and name not in fixed}
        fixed["TILE"] = config.tile
        module, function = kernel.fn.__module__.rpartition(".")[2], kernel.fn.__name__
        types = tuple((name, signature[name]) for name in names)
        builds |= {
            Build(module, function, types, tuple(fixed.items()), config, DTYPES[dtype], target)
            for target in TARGETS
        }
    return builds


def _run_once(case: Case, channels: int, dtype: torch.dtype) -> None:
    """Forward and backward of tensors without values.  Parameters are float32, as in mixed precision."""
    module = import_module(f"seemore_fast.kernels.{case.name}")
    inputs = case.inputs((1, channels, 16, 16), dtype, torch.float32, lambda s, d: torch.empty(s, dtype=d))
    out, *saved = module.forward(*inputs)
    needs = [True] * sum(isinstance(value, Tensor) for value in inputs)
    module.backward(out, *saved, *inputs, needs)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return "*" + DTYPES[value.dtype]
    return {int: "i32", float: "fp32", type(None): "constexpr"}[type(value)]


def builds() -> list[Build]:
    """What aot.json has: width 48 in every configuration on sm_90; other targets and widths by default."""
    found = record(48, torch.float16, True) | record(48, torch.float32, True)
    found = {build for build in found if build.target == 90} | record(48, torch.float16, False)
    for width, dtype in ((36, torch.float16), (64, torch.float16), (48, torch.bfloat16)):
        found |= {build for build in record(width, dtype, False) if build.target == 90}
    return sorted(found, key=lambda build: build.name)


def measure(chosen: list[Build], workers: int | None = None) -> dict[str, dict[str, int]]:
    with ProcessPoolExecutor(workers) as pool:
        return {b.name: f for b, f in zip(chosen, pool.map(Build.figures, chosen, chunksize=4), strict=True)}


def problems(measured: dict[str, dict[str, int]], known: dict[str, list[int]]) -> list[str]:
    """What is worse than aot.json has it, or not in it."""
    found = []
    for name, figures in measured.items():
        if name not in known:
            found.append(f"{name}: not in {RATCHET.name}")
            continue
        for field, limit in zip(FIELDS, known[name], strict=True):
            if figures[field] > limit:
                found.append(f"{name}: {field} grew from {limit} to {figures[field]}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write aot.json")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help="names with one of these in them"
    )
    arguments = parser.parse_args()
    chosen = [build for build in builds() if any(text in build.name for text in arguments.only)]
    measured = measure(chosen)
    for name, figures in measured.items():
        print(f"{name:<100}", *(f"{figures[field]:>7}" for field in FIELDS))
    known = json.loads(RATCHET.read_text()) if RATCHET.exists() else {}
    if arguments.update:
        known = {b.name: known[b.name] for b in builds() if b.name in known}  # the others are no more
        known |= {name: [figures[field] for field in FIELDS] for name, figures in measured.items()}
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(known[name])}" for name in sorted(known))
        RATCHET.write_text(f"{{\n{lines}\n}}\n")
    elif triton.__version__ != VERSION:
        print(f"not compared: aot.json has the figures of Triton {VERSION}, this is {triton.__version__}")
    elif found := problems(measured, known):
        sys.exit("\n".join([*found, "If this is meant: python tests/support/triton_builds.py --update"]))


if __name__ == "__main__":
    main()
