#!/usr/bin/env bash
# tests/layering passes on the tree and fails on each kind of violation.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$here/layering" "$here/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
expect_violation() {  # FILE INCLUDE
  rm -rf "${scratch:?}"/*
  mkdir -p "$scratch/$(dirname "$1")"
  printf '#pragma once\n#include <vector>\n#include "%s"\n' "$2" >"$scratch/$1"
  if "$here/layering" "$scratch" >"$scratch/out"; then
    echo "not detected: $1 including $2"
    exit 1
  fi
  grep -q "^$1:3: " "$scratch/out" || { echo "no position given:"; cat "$scratch/out"; exit 1; }
}
expect_violation core/a.h data/b.h
expect_violation data/tasks/a.cpp parallel/b.h
expect_violation kernels/cuda/a.cu parallel/b.h
expect_violation model/a.cpp trainer/b.h
expect_violation checkpoint/a.cpp model/b.h
expect_violation parallel/a.h mesh.h
expect_violation rl/rewards/a.cpp model/b.h
expect_violation rl/rewards/a.cpp rl/b.h
expect_call() {  # FILE LINE
  rm -rf "${scratch:?}"/*
  mkdir -p "$scratch/$(dirname "$1")"
  printf '%s\n' "$2" >"$scratch/$1"
  if "$here/layering" "$scratch" >"$scratch/out"; then
    echo "not detected: $2 in $1"
    exit 1
  fi
}
expect_call trainer/a.cpp '#include <cuda_runtime.h>'
expect_call parallel/a.cpp '#include <nccl.h>'
expect_call parallel/a.h '#include <c10/cuda/CUDAFunctions.h>'
expect_call model/a.cpp '  cudaMalloc(&p, 3);'
expect_call launch/a.cpp '  c10::cuda::set_device(0);'
rm -rf "${scratch:?}"/*
mkdir -p "$scratch/kernels/cuda"
echo 'void f() { cudaFree(nullptr); }' >"$scratch/kernels/cuda/a.cu"
"$here/layering" "$scratch" >/dev/null
echo passed
