"""Host time of the launches of a training layer on Triton's kernels, without a GPU.

    python benchmarks/launch_cost.py

On a stub of CUDA's driver: kernels are compiled for an H100, and a launch ends in the stub.  What is told is
CPU time, Triton's own way and as kernels/_configs.py keeps launches.  Needs gcc and the package triton.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = 100
"""The device's number, as the stub has it."""


def environment(folder: Path) -> dict[str, str]:
    """Builds the stub in ``folder``: the variables with which a process takes it for the driver."""
    library, source = folder / "libcuda.so.1", ROOT / "tests/native/fake_driver.c"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
    return {
        "TRITON_LIBCUDA_PATH": str(folder),
        "TRITON_CACHE_DIR": str(folder / "cache"),
        "LD_LIBRARY_PATH": str(folder),
        "FAKE_LOG": str(folder / "log"),
        "PYTHONPATH": str(ROOT),
    }


def take_the_stub(prepared: bool) -> None:
    """In a process with those variables: tensors of the CPU count as a GPU's."""
    import torch
    import triton
    from seemore_fast.kernels import _configs
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils

    class Stub(CudaDriver):
        def __init__(self) -> None:
            self.utils, self.launcher_cls = CudaUtils(), CudaLauncher
            self.get_current_device = lambda: ADDRESS
            self.get_current_stream = lambda device: 7

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

    triton.runtime.driver.set_active(Stub())
    torch.Tensor.get_device = lambda self: ADDRESS  # type: ignore[method-assign]
    _configs._prepares = lambda x: prepared


def layer() -> Callable[[], Any]:
    """A layer of SeemoRe-T, forward and backward, at 2 x 32x32."""
    import torch
    from seemore_fast.kernels import rme, sme

    from seemore_fast import SeemoRe
    from seemore_fast.network import variants
    from seemore_fast.network.parameters import RMEWeights, SMEWeights, flatten

    config = {**variants.config("t-x2"), "num_layers": 1}
    group: Any = SeemoRe(**config).requires_grad_(False).body[0]
    x = torch.rand(2, config["embedding_dim"], 32, 32)
    of_rme, of_sme = flatten(RMEWeights.of(group.local_block)), flatten(SMEWeights.of(group.global_block))
    options = [2, 4, 8], 1, True, 2, 1e-6
    needs = [[True] * (1 + len(weights)) for weights in (of_rme, of_sme)]

    def run() -> None:
        out, *kept = rme.forward(x, *of_rme, *options)
        _, y = sme.forward(out, *of_sme, 1e-6)
        dx, *_ = sme.backward(x, y, out, *of_sme, 1e-6, needs[1])
        rme.backward(dx, *kept, x, *of_rme, *options, needs[0])

    return run


def measure(prepared: bool) -> None:
    """Prints microseconds of CPU time: the least of ten rounds."""
    take_the_stub(prepared)
    from seemore_fast.kernels import _configs

    calls: list[tuple[Any, Any]] = []
    launch, run = _configs.launch, layer()
    users = [
        module
        for name, module in sys.modules.items()
        if name.startswith("seemore_fast.kernels.") and getattr(module, "launch", None) is launch
    ]
    users.remove(_configs)

    def spy(*args: Any, **constants: Any) -> None:
        calls.append((args, constants))
        launch(*args, **constants)

    def use(function: Callable[..., None]) -> None:
        for module in users:
            module.launch = function  # type: ignore[attr-defined]

    def least(args: Any, constants: Any) -> float:
        found = []
        for _ in range(10):
            begin = time.thread_time()
            for _ in range(40):
                launch(*args, **constants)
            found.append((time.thread_time() - begin) / 40)
        return 1e6 * min(found)

    run()
    use(spy)
    run()
    each = sorted(least(*call) for call in calls)
    print(
        f"{'prepared' if prepared else 'by Triton'}: {len(each)} launches, "
        f"{sum(each) / len(each):.1f} us each (median {each[len(each) // 2]:.1f}, most {each[-1]:.1f})"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        variables = {**os.environ, **environment(Path(folder)), "OMP_NUM_THREADS": "1"}
        for prepared in ("", "prepared"):
            subprocess.run([sys.executable, __file__, "measure", prepared], check=True, env=variables)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(bool(sys.argv[2]))
    else:
        main()
