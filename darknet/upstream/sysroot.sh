#!/bin/bash
# Unpacks what a cross build needs of Debian for another architecture: the libraries of darknet/upstream/packages and all they
# depend on. Needs no root, and changes nothing outside DIR: apt works on lists and a cache of its own.
# Usage: sysroot.sh ARCH DIR [PACKAGE...]   ARCH as Debian calls it (arm64, armhf); PACKAGEs instead of the list's
set -euo pipefail

arch=${1:?usage: sysroot.sh ARCH DIR [PACKAGE...]} dir=${2:?usage: sysroot.sh ARCH DIR [PACKAGE...]}
shift 2

fail() {
  echo "darknet/upstream/sysroot.sh: $*" >&2
  exit 1
}

for tool in apt-get dpkg-deb; do command -v "$tool" >/dev/null || fail "$tool not found: this needs a Debian system"; done
wanted=("$@")
if [ ${#wanted[@]} -eq 0 ]; then
  mapfile -t wanted < <(awk -v arch="$arch" '
    /^#/ || NF == 0 { next }
    $3 == "build" && $1 ~ /-dev$/ && ($2 == "any" || index("," $2 ",", "," arch ",")) { print $1 }' "$(dirname "$0")/packages")
fi

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
state=$dir.apt
mkdir -p "$state"/{lists/partial,archives/partial,etc/preferences.d,etc/apt.conf.d}
: >"$state/status"
apt() {
  apt-get -qq -o APT::Architecture="$arch" -o APT::Architectures::="$arch" -o Dir::State="$state" -o Dir::State::lists="$state/lists" \
    -o Dir::State::status="$state/status" -o Dir::Cache="$state" -o Dir::Cache::archives="$state/archives" -o APT::Sandbox::User=root \
    -o Dir::Etc::preferencesparts="$state/etc/preferences.d" -o APT::Install-Recommends=false "$@" </dev/null
}
log=$state/log
apt update >"$log" 2>&1 || { tail -n 5 "$log" >&2; fail "no package lists for $arch"; }
apt install -y --download-only "${wanted[@]}" >"$log" 2>&1 || { tail -n 5 "$log" >&2; fail "no such packages for $arch: ${wanted[*]}"; }
# The cross compiler comes with the C library's headers and its own way of linking to it.
rm -f "$state"/archives/{libc6-dev,linux-libc-dev}_*.deb
for package in "$state"/archives/*.deb; do dpkg-deb -x "$package" "$dir"; done
# Links with absolute targets would lead out of the tree.
find "$dir" -type l -lname '/*' -printf '%p\t%l\n' | while IFS=$'\t' read -r link target; do ln -sfn "$dir$target" "$link"; done
rm -rf "$state"
