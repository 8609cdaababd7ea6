#!/usr/bin/env bash
# Everything that a GPU machine can tell, offline and in under 9 minutes a part: builds, tests, measurements.
#
#   benchmarks/gpu.sh [engine|triton] [FOLDER]      default: engine, benchmarks/results/<gpu>
#
# engine: the CUDA engine (inference).  triton: the Triton kernels (training).
#
# Needs that machine's own python3 with PyTorch for CUDA, Triton, pytest and pytest-benchmark; pytest-xdist helps, for
# most of the time goes into compiling kernels.  The engine's part also needs nvcc, cmake, ninja and pybind11.
# Nothing is installed: the source tree is put on PYTHONPATH, the native library into it.
# Each step has a time budget, leaves <step>.log and perhaps JSON in FOLDER, and does not stop those after it.  Where
# only some files can be fetched, pack FOLDER: there are up to 19.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 PYTEST_ADDOPTS="-p no:cacheprovider"
PATH=$PATH:$(python3 -c 'import sysconfig; print(sysconfig.get_path("scripts"))') # where pip puts cmake and ninja

part=${1:-engine}
[[ $part == engine || $part == triton ]] || { echo "usage: benchmarks/gpu.sh [engine|triton] [FOLDER]" >&2; exit 2; }
gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr 'A-Z ' 'a-z-') || exit 1
out=$(realpath -m "${2:-benchmarks/results/$gpu}")
mkdir -p "$out"
parallel=()
if python3 -c 'import xdist' 2>/dev/null; then parallel=(-n 12); fi

failed=() table=""
# step NAME SECONDS COMMAND...: runs it within its budget.
step() {
  local name=$1 budget=$2 start=$SECONDS status
  shift 2
  # As Ctrl-C does: pytest then tells what has failed so far.
  timeout -s INT -k 5 "$budget" "$@" >"$out/$name.log" 2>&1
  status=$?
  ((status == 0)) || failed+=("$name")
  table+=$(printf '%-12s %4d s of %4d   %s' "$name" $((SECONDS - start)) "$budget" \
    "$( ((status == 0)) && echo ok || echo "FAILED ($status), see $name.log")")$'\n'
}

build() {
  local capability
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
  cmake -S . -B build-gpu -G Ninja -DPython_EXECUTABLE="$(command -v python3)" \
    -DSEEMORE_CUDA=on -DSEEMORE_CUDA_ARCHITECTURES="$capability" || return
  ninja -C build-gpu || return
  python3 -c 'from seemore_fast import backends; exit(backends.missing("cuda"))' # prints why it is missing
}

# All four of compute-sanitizer's tools at once: they share the GPU, and start for longer than they run.
sanitizers() {
  local tool status=0 pids=()
  trap 'kill 0' INT # which jobs in the background ignore
  for tool in memcheck racecheck initcheck synccheck; do
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 --report-api-errors no \
      --kernel-name kns=seemore python3 -m pytest -q tests/cuda/test_on_a_gpu.py -k small >"$out/$tool.log" 2>&1 &
    pids+=($!)
  done
  for tool in "${pids[@]}"; do wait "$tool" || status=$?; done
  tail -n 3 "$out"/{memcheck,racecheck,initcheck,synccheck}.log
  return $status
}
export -f build sanitizers
export out

# ---- steps; the budgets of a part add up to less than 540 s, the engine's to 440 s without "compiled" ----

step environment 30 python3 benchmarks/gpu.py environment --json "$out/environment.json"
if [[ $part == engine ]]; then
  step build 100 bash -c build
  step parity 65 python3 -m pytest -q tests/cuda/test_on_a_gpu.py tests/engines/test_cuda_engine.py -k "not bitwise"
  step operators 35 python3 -m pytest -q "${parallel[@]}" tests/cuda/test_operators.py
  step bitwise 25 python3 -m pytest -q tests/cuda/test_on_a_gpu.py -k bitwise
  step sanitizers 65 bash -c sanitizers
  step times 90 python3 benchmarks/gpu_engine.py times --limit 75 --json "$out/times.json"
  step per-kernel 25 python3 benchmarks/gpu_engine.py kernels --limit 15 --json "$out/per-kernel.json"
  # All that is left: what autotuning has found is cached, so a second run gets further.
  step compiled $((530 - SECONDS)) python3 benchmarks/gpu_engine.py compiled --limit $((490 - SECONDS)) \
    --json "$out/compiled.json"
  step targets 5 python3 benchmarks/gpu_targets.py "$out"
  logs=(times per-kernel compiled targets)
else
  # Right, repeatable, inside their memory; then how fast.
  step kernels 150 python3 -m pytest -q "${parallel[@]}" tests/kernels --ignore tests/kernels/test_aot.py -k "not bitwise"
  step repeat 60 python3 -m pytest -q "${parallel[@]}" tests/kernels -k "bitwise"
  step memcheck 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 9 \
    --report-api-errors no python3 -m pytest -q tests/kernels/test_ops.py -k "test_sizes and 67"
  step ops 80 python3 benchmarks/gpu.py ops --json "$out/ops.json"
  step train 140 python3 benchmarks/gpu.py train --json "$out/train.json"
  logs=(ops train)
fi

# ---- what came of it ----

for log in "${failed[@]}" "${logs[@]}"; do
  printf '\n== %s\n' "$log"
  tail -n 80 "$out/$log.log"
done
printf '\n%s\n' "$table"
((${#failed[@]} == 0))
