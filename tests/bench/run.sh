#!/bin/bash
# Runs the benchmark programs one after another: a table on the screen, JSON beside each program (README.md).
# Usage: run.sh PROGRAM...
#   BENCH_QUICK=1  a short look at each, to see that it works
set -euo pipefail

[ $# -gt 0 ] || { echo "tests/bench/run.sh: no benchmark program given; run: make bench" >&2; exit 1; }
quick=${BENCH_QUICK:-}
failed=()
for program in "$@"; do
  echo "== $program"
  if [ "$(basename "$program")" = training ]; then
    options=(--json "$program.json" ${quick:+--quick})
  else  # Google Benchmark
    options=(--benchmark_out="$program.json" --benchmark_out_format=json ${quick:+--benchmark_min_time=0.01})
  fi
  "$program" "${options[@]}" || failed+=("$program")
done
[ ${#failed[@]} -eq 0 ] || { echo "tests/bench/run.sh: failed: ${failed[*]}" >&2; exit 1; }
