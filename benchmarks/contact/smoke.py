"""Does it run at all, and right?  The smallest networks on the CUDA engine, held to float64.

python -m benchmarks.contact.smoke LAYERS PRECISION ...      LAYERS: 0 (both ends alone), 1, ..

Says what it is about to do before it does it: after a hang or a crash the last line tells where.
"""

from __future__ import annotations

import argparse
import sys
from types import ModuleType

import torch

from benchmarks.contact.bare import Bare, network, picture
from seemore_fast.backends import native
from seemore_fast.engines import cuda_engine
from seemore_fast.network.accuracy import relative_l2

SIZE = (33, 47)
"""Of the picture: more than a tile, and no multiple of one."""

GATES = {"fp32": 1e-5, "tf32": 1e-2, "fp16": 1e-2, "bf16": 5e-2}
"""Relative L2 error; weights of the tests amplify more than those of a trained network."""


def run(lib: ModuleType, layers: int, precision: str, device: str) -> bool:
    """Whether the error, which is printed, is within its gate."""
    say(f"{precision}, {layers} layers: packing")
    model, x = network(layers), picture(*SIZE)
    bare = Bare(lib, model, precision, device)
    say("launching")
    out, _ = bare.run(x)
    with torch.no_grad():
        error = relative_l2(out, model.double()(x.double()))
    right = error <= GATES[precision]  # not for NaN
    say(f"relative error {error:.2e}, {'within' if right else 'ABOVE'} {GATES[precision]:.0e}")
    return right


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("layers", type=int)
    parser.add_argument("precision", nargs="+", choices=cuda_engine.PRECISIONS)
    given = parser.parse_args()
    say("starting CUDA")
    torch.zeros(1).cuda()  # PyTorch makes the context
    lib = native.require()
    right = [run(lib, given.layers, precision, "cuda") for precision in given.precision]
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
