#!/usr/bin/env bash
# Everything that a GPU machine can tell, in under 9 minutes and offline: tests, repeat runs, measurements.
#
#   benchmarks/gpu.sh [FOLDER]          default: benchmarks/results/<gpu>
#
# Needs that machine's own python3 with PyTorch for CUDA, Triton, pytest and pytest-benchmark; pytest-xdist helps, for
# most of the time goes into compiling kernels.  Nothing is installed: the source tree is put on PYTHONPATH.
# Each step has a time budget, leaves <step>.log and perhaps JSON in FOLDER, and does not stop those after it.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 PYTEST_ADDOPTS="-p no:cacheprovider"

gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr 'A-Z ' 'a-z-') || exit 1
out=$(realpath -m "${1:-benchmarks/results/$gpu}")
mkdir -p "$out"
parallel=()
if python3 -c 'import xdist' 2>/dev/null; then parallel=(-n 12); fi

failed=0 table=""
# step NAME SECONDS COMMAND...: runs it within its budget.
step() {
  local name=$1 budget=$2 start=$SECONDS status
  shift 2
  timeout -k 5 "$budget" "$@" >"$out/$name.log" 2>&1
  status=$?
  ((status == 0)) || failed=1
  table+=$(printf '%-12s %4d s of %4d   %s' "$name" $((SECONDS - start)) "$budget" \
    "$( ((status == 0)) && echo ok || echo "FAILED ($status), see $name.log")")$'\n'
}

# ---- steps; their budgets add up to less than 540 s ----

step environment 15 python3 benchmarks/gpu.py environment --json "$out/environment.json"

# Triton kernels: right, repeatable, inside their memory; then how fast.
step kernels 170 python3 -m pytest -q "${parallel[@]}" tests/kernels -k "not bitwise"
step repeat 60 python3 -m pytest -q "${parallel[@]}" tests/kernels -k "bitwise"
step memcheck 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 9 \
  python3 -m pytest -q tests/kernels/test_ops.py -k "test_sizes and 67"
step ops 80 python3 benchmarks/gpu.py ops --json "$out/ops.json"
step train 140 python3 benchmarks/gpu.py train --json "$out/train.json"

# ---- what came of it ----

printf '\n%s\n' "$table"
tail -n 40 "$out/ops.log" "$out/train.log"
exit $failed
