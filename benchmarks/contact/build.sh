#!/usr/bin/env bash
# The native library and kernels for the GPU at hand alone, with lines for the profiler, into the source tree.
set -euo pipefail
PATH=$PATH:$(python3 -c 'import sysconfig; print(sysconfig.get_path("scripts"))') # where pip puts cmake and ninja
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
export NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} -lineinfo"
cmake -S . -B build-gpu -G Ninja -DPython_EXECUTABLE="$(command -v python3)" \
  -DSEEMORE_CUDA=on -DSEEMORE_CUDA_ARCHITECTURES="$capability"
ninja -C build-gpu
python3 -c 'from seemore_fast import backends; exit(backends.missing("cuda"))' # prints why it is missing
