#!/usr/bin/env bash
# The unit and mpi tests under the address and undefined-behaviour sanitizers. TESSERA_ENV is set by tests/run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cmake --preset asan >/dev/null 2>&1
ninja -C build/asan -j "$(nproc)" | sed -u -n '/FAILED\|error:\|ninja:/p'
# Open MPI keeps some memory until the process ends. A refused allocation is std::bad_alloc, as without the sanitizer.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:exitcode=99:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
exec ctest --test-dir build/asan -L 'unit|mpi' --output-on-failure --no-tests=error
