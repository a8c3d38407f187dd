#!/usr/bin/env bash
# The unit and mpi tests under the address and undefined-behaviour sanitizers; those of the communicator and of the checkpoints
# under the thread sanitizer, as far as that sees (docs/long-tests.md). TESSERA_ENV is set by tests/run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cmake --preset asan >/dev/null 2>&1
ninja -C build/asan -j "$(nproc)" | sed -u -n '/FAILED\|error:\|ninja:/p'
# Open MPI keeps some memory until the process ends. A refused allocation is std::bad_alloc, as without the sanitizer.
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:exitcode=99:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
ctest --test-dir build/asan -L 'unit|mpi' --output-on-failure --no-tests=error

cmake --preset tsan >/dev/null 2>&1
ninja -C build/tsan -j "$(nproc)" parallel_{tests,mpi_tests,fault_program} checkpoint_{tests,mpi_tests} | sed -u -n '/FAILED\|error:\|ninja:/p'
export OMP_NUM_THREADS=1 TESSERA_TEST_EXTRA_SECONDS=10 TSAN_OPTIONS=exitcode=66:suppressions=$PWD/tests/support/tsan.supp
exec ctest --test-dir build/tsan -R '^(parallel|checkpoint)_' --output-on-failure --no-tests=error
