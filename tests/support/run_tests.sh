#!/bin/bash
# Runs the test programs one after another and closes with the line `N passed, N failed` (test cases).
# A program that crashes, hangs or ends without reporting its counts is one more failure; so is running no test at all.
# Usage: run_tests.sh TIMEOUT_SECONDS PROGRAM...
set -uo pipefail

timeout_s=${1:?usage: run_tests.sh TIMEOUT_SECONDS PROGRAM...}
shift
# For builds with SANITIZE=address; the programs that tests start see it, too.
export LSAN_OPTIONS=${LSAN_OPTIONS:-suppressions=$(cd "$(dirname "$0")" && pwd)/leaks.txt:print_suppressions=0}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Sockets and folders of tests, also of those that are killed.
export TMPDIR=$work
# Measured backends (darknet/cache_file.hpp): not the user's, and the same for all tests of a run.
export XDG_CACHE_HOME=$work/cache

passed=0
failed=0
for program in "$@"; do
  echo "== $program"
  counts=$work/counts
  rm -f "$counts"
  TESSERA_TEST_COUNTS=$counts timeout --kill-after=10 "$timeout_s" "$program" </dev/null
  status=$?
  program_passed=0
  program_failed=0
  [ -r "$counts" ] && read -r program_passed program_failed <"$counts"
  if [ "$status" -ne 0 ] && [ "$program_failed" -eq 0 ]; then
    [ "$status" -eq 124 ] && echo "$program: still running after $timeout_s s, stopped" || echo "$program: ended with status $status"
    program_failed=1
  elif [ $((program_passed + program_failed)) -eq 0 ]; then
    echo "$program: ran no test"
    program_failed=1
  fi
  passed=$((passed + program_passed))
  failed=$((failed + program_failed))
done

[ $((passed + failed)) -gt 0 ] || failed=1
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
