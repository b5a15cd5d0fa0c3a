#!/bin/bash
# Installs the Debian packages that are missing for a purpose (`build`, `bench` or `check`, see darknet/upstream/packages).
# Says in one line what it installs; does and says nothing when everything is there.
# Usage: install_packages.sh PURPOSE
set -euo pipefail

purpose=${1:?usage: install_packages.sh build|bench|check}
list=$(dirname "$0")/packages

fail() {
  echo "darknet/upstream/install_packages.sh: $*" >&2
  exit 1
}

command -v dpkg-query apt-get >/dev/null ||
  fail "this is not a Debian system; install what darknet/upstream/packages lists yourself, then: make DEPS=no"

arch=$(dpkg --print-architecture)
mapfile -t wanted < <(awk -v arch="$arch" -v purpose="$purpose" '
  /^#/ || NF == 0 { next }
  $3 == purpose && ($2 == "any" || index("," $2 ",", "," arch ",")) { print $1 }' "$list")
[ ${#wanted[@]} -gt 0 ] || fail "darknet/upstream/packages lists nothing for \"$purpose\""

missing=()
for package in "${wanted[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null ||
    fail "missing packages and no sudo; as root: apt-get install ${missing[*]} (or: make DEPS=no)"
  as_root=(sudo)
fi
echo "installing from Debian (skip with DEPS=no): ${missing[*]}"

# Through `env`, because sudo does not pass the variable on. Waits for another apt (unattended upgrades on a new machine).
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" </dev/null; }
install() { apt install -y --no-install-recommends "$@"; }

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The package lists may be absent (fresh container) or out of date: only then are they fetched.
if ! install "${missing[@]}" >"$log" 2>&1; then
  apt update >"$log" 2>&1 || { tail -n 5 "$log" >&2; fail "apt-get update failed"; }
  install "${missing[@]}" >"$log" 2>&1 || { tail -n 5 "$log" >&2; fail "could not install: ${missing[*]}"; }
fi
