#!/usr/bin/env bash
# Where there is an NVIDIA GPU: every kernel beside its twin on the CPU, the same under compute-sanitizer, and whole runs of the binary. Needs
# nvcc. TESSERA_ENV is set by tests/run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
nvidia-smi -L 2>/dev/null | grep -q GPU || { echo "SKIPPED: no NVIDIA GPU on this host"; exit 0; }
cmake --preset cuda -DTESSERA_TESTS=ON -DTESSERA_UNITY=ON >/dev/null 2>&1
ninja -C build/cuda -j "$(nproc)" | sed -u -n '/FAILED\|error:\|ninja:/p'
ctest --test-dir build/cuda -L gpu --output-on-failure --no-tests=error

sanitizer=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
if [ -x "$sanitizer" ]; then
  for tool in memcheck racecheck synccheck; do
    "$sanitizer" --tool "$tool" --error-exitcode 99 build/cuda/bin/cuda_tests
  done
else
  echo "SKIPPED: compute-sanitizer, which comes with CUDA's toolkit, is neither in PATH nor in CUDA_HOME"
fi

export TESSERA_DEVICE=cuda TESSERA_BINARY=$PWD/build/cuda/tessera TESSERA_DEVICE_PLUGIN=$PWD/build/cuda/tests/e2e/libe2e_device_plugin.so
for test in device device_generation; do
  "$TESSERA_ENV/bin/python" "tests/e2e/$test.py"
done
