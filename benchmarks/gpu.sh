#!/usr/bin/env bash
# Everything that a GPU machine can tell, offline, in 9 minutes at most each (docs/first-contact.md):
#
#   benchmarks/gpu.sh first [FOLDER]      is it right, and is it fast?
#   benchmarks/gpu.sh depth [FOLDER]      all sizes, many repeats, max-autotune, training
#
# Needs nvcc, cmake, ninja, pybind11, and a python3 with PyTorch for CUDA, Triton and pytest; compute-sanitizer
# and ncu help.  Nothing is installed: the source tree is on PYTHONPATH, the native library goes into it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
exec python3 -m benchmarks.contact.course "$@"
