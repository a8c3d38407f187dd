#!/usr/bin/env bash
# Dead, stopped and out-of-step ranks: the job ends with a CommError that names the culprit, within the deadline (2 s)
# plus 5 s, and leaves no process behind. Long phases extend the deadline.
#   faults_test.sh FAULT_PROGRAM [0 | 1: through shared memory]
set -uo pipefail
program=$1
export TESSERA_TEST_SHARED_MEMORY=${2:-1}
variant=shared_memory_$TESSERA_TEST_SHARED_MEMORY  # an argument that the program leaves alone; tells two runs' processes apart
failures=0
run_flags=(--oversubscribe --mca mpi_yield_when_idle 1)
[ "$(id -u)" = 0 ] && run_flags+=(--allow-run-as-root)

fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

# expect NAME RANKS STATUS SECONDS PATTERN...: STATUS is "ok" or "error"; every pattern must be in the output.
expect() {
  local fault=$1 ranks=$2 status=$3 limit=$(($4 + ${TESSERA_TEST_EXTRA_SECONDS:-0})) output code begin=$SECONDS pattern  # sanitizers are slow
  shift 4
  output=$(OMP_NUM_THREADS=1 timeout -k 5 60 mpirun "${run_flags[@]}" -np "$ranks" "$program" "$fault" "$variant" 2>&1 </dev/null)
  code=$?
  local took=$((SECONDS - begin))
  local before=$failures
  if [ "$status" = ok ]; then
    [ $code = 0 ] || fail "$fault: exit code $code"
  else
    [ $code != 0 ] && [ $code != 124 ] || fail "$fault: exit code $code, an error was expected"
  fi
  [ $took -le "$limit" ] || fail "$fault: took $took s, at most $limit were expected"
  for pattern in "$@"; do
    grep -qE -- "$pattern" <<<"$output" || fail "$fault: nothing in the output matches '$pattern'"
  done
  sleep 0.2
  if pgrep -f "^$program $fault $variant" >/dev/null; then
    sleep 3
    pgrep -f "^$program $fault $variant" >/dev/null && fail "$fault: processes are left"
  fi
  [ $failures = "$before" ] || echo "$output" | sed 's/^/    /'
  echo "$fault (np $ranks): $took s, exit code $code"
}

expect skip 2 error 9 'dp all_reduce #3 \(391 KiB\) did not complete within 2.0s' \
  'rank 1 has not arrived \(it is at #2 all_reduce\)'
expect skip 3 error 9 'rank 1 has not arrived'
# Whose deadline ends first is chance; either message shows both ranks.
expect skip_and_go_on 2 error 9 'dp all_reduce #3' 'world barrier #[12]' 'rank [01] has not arrived'
# MPI itself cannot tell that sizes differ.
[ "$TESSERA_TEST_SHARED_MEMORY" = 0 ] || expect mismatch 2 error 9 'dp all_reduce #3' 'called all_reduce \((195|391) KiB\) as its #3'
expect stop 2 error 9 'dp all_reduce #3' 'rank 1 does not answer \(stopped or dead\)'
expect stop 3 error 9 'rank 1 does not answer \(stopped or dead\)'
expect stop_at_end 2 error 9 'rank 1 does not answer'
expect kill 2 error 9 'signal 9'
expect exchange 2 error 9 'dp exchange #1' 'rank 1 has not arrived'
expect throw 2 error 9 'rank 1: one rank gives up'
expect phase 2 ok 14
expect phase_behind_a_peer 3 ok 14
expect slow_end 2 ok 14
if [ $failures != 0 ]; then
  echo "$failures checks failed"
  exit 1
fi
