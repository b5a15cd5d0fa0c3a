#!/bin/bash
# Runs benchmark programs one after another: tables on the screen, JSON beside each program (README.md).
# Usage: run.sh FOLDER "PROGRAM..." [--quick] [OPTION...]
#   --benchmark_... options go to the programs made with Google Benchmark, all others to the rest
set -euo pipefail

[ $# -ge 2 ] || { echo 'tests/bench/run.sh: give the folder of the programs and their names; or run: make bench' >&2; exit 1; }
folder=$1 programs=$2
shift 2

options=() google_options=()
for option in "$@"; do
  case $option in
    --benchmark_*) google_options+=("$option") ;;
    --quick) options+=(--quick) google_options+=(--benchmark_min_time=0.01) ;;
    *) options+=("$option") ;;
  esac
done

failed=()
for name in $programs; do
  program=$folder/$name
  [ -x "$program" ] || { echo "tests/bench/run.sh: there is no benchmark program $name" >&2; failed+=("$name"); continue; }
  printf '\n======== %s\n' "$name"
  case $name in
    kernels | transport | scheduler)
      "$program" --benchmark_out="$program.json" --benchmark_out_format=json "${google_options[@]}" || failed+=("$name") ;;
    *) "$program" --json "$program.json" "${options[@]}" || failed+=("$name") ;;
  esac
done
[ ${#failed[@]} -eq 0 ] || { echo "tests/bench/run.sh: failed: ${failed[*]}" >&2; exit 1; }
