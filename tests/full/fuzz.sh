#!/usr/bin/env bash
# Fuzzes every parser for FUZZ_SECONDS (300) each under the address and undefined-behaviour sanitizers. Findings and the
# grown corpora are kept under build/fuzz/.
#   tests/full/fuzz.sh [TARGET..]      tokenizer chat_template jsonl safetensors recipe
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
targets=("$@")
[ $# -gt 0 ] || targets=(tokenizer chat_template jsonl safetensors recipe)
build=build/fuzz
mkdir -p $build
cmake -S tests/fuzz -B $build -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1" >$build/configure.log 2>&1 || { cat $build/configure.log; exit 1; }
ninja -C $build -j "${FUZZ_JOBS:-$(nproc)}" "${targets[@]/#/fuzz_}" >$build/build.log 2>&1 || { cat $build/build.log; exit 1; }
rm -rf $build/seeds
PYTHONDONTWRITEBYTECODE=1 "$TESSERA_ENV/bin/python" tests/fuzz/seeds.py $build/seeds
failed=0
for target in "${targets[@]}"; do
  mkdir -p $build/corpus/$target $build/findings
  if $build/bin/fuzz_$target -max_total_time="${FUZZ_SECONDS:-300}" -timeout=10 -rss_limit_mb=3072 -max_len=8192 -print_final_stats=1 \
    -artifact_prefix=$build/findings/$target- $build/corpus/$target $build/seeds/$target >$build/$target.log 2>&1; then
    echo "$target: nothing found in $(sed -nE 's/^stat::number_of_executed_units: *//p' $build/$target.log) executions"
  else
    echo "$target: FAILED, see $build/findings/$target-*"
    grep -E 'ERROR:|runtime error|SUMMARY|what\(\)|Test unit written' $build/$target.log | head -8
    failed=1
  fi
done
exit $failed
