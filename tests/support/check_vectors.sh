#!/bin/bash
# Kernels whose loops must be vectors in the machine's code: fails where one of the list has too few, or multiplies and adds single values
# (fused, as only products are allowed to).
# Usage: check_vectors.sh OBJDUMP FOLDER   FOLDER holds the objects of src/kernels
set -euo pipefail
export LC_ALL=C

objdump=${1:?usage: check_vectors.sh OBJDUMP FOLDER} folder=${2:?usage: check_vectors.sh OBJDUMP FOLDER}
# Vectors of four floats and more; and fused products of one.
case $("$objdump" -f "$folder/winograd_product.o" | sed -n 's/^architecture: \([^,]*\).*/\1/p') in
  aarch64) vector='\bv[0-9]+\.4s' single='\bf(madd|mla)\s+s[0-9]' fused='\bfmla\s+v[0-9]+\.4s' ;;
  arm*) vector='\bq[0-9]+' single='\b(vfma|vmla)\.f32\s+s[0-9]' fused='\b(vfma|vmla)\.f32\s+q[0-9]' ;;
  i386:x86-64) vector='%[xyz]mm[0-9]' single='\bvfn?madd[0-9]+ss' fused='\bvfmadd[0-9]+ps' ;;
  *) echo "check_vectors.sh: no rule for this architecture" >&2; exit 1 ;;
esac

failed=0
# $1: object, $2: part of the function's name, $3: pattern that must occur, $4: at least so often
expect() {
  local code count singles
  code=$("$objdump" -d --no-show-raw-insn -C "$folder/$1" | awk -v name="$2" '/^[0-9a-f]+ </ { on = name == "" || index($0, name) } on')
  count=$(grep -cE "$3" <<<"$code" || true)
  singles=$(grep -cE "$single" <<<"$code" || true)
  if [ "$count" -lt "$4" ] || [ "$singles" -gt 0 ]; then
    echo "check_vectors.sh: $2 in $1: $count vector instructions, at least $4 expected; $singles products of single values" >&2
    failed=1
  fi
}
# Where products are not fused in this build the algorithm is not used either (winograd_product.cpp).
if "$objdump" -d --no-show-raw-insn "$folder/winograd_product.o" | grep -qE "$fused|$single"; then
  expect winograd_product.o 'multiply_block<3>' "$fused" 12
fi
# What is inlined into what differs from machine to machine: all functions of these.
expect convolution_winograd.o '' "$vector" 100
expect interleave.o '' "$vector" 16
expect batch_norm.o '' "$vector" 50
expect update.o '' "$vector" 4
[ "$failed" -eq 0 ] && echo "vectors where they are expected"
exit "$failed"
