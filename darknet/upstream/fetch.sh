#!/bin/bash
# Gets the upstream source named in darknet/upstream/upstream.lock and unpacks it.
# Usage: fetch.sh DOWNLOAD_DIR SOURCE_DIR
#   DOWNLOAD_DIR keeps the tarball and a private apt list; SOURCE_DIR is replaced by the unpacked tree.
# Needs neither root nor deb-src lines: the user's own apt configuration is read, never changed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
fallback_mirror=http://deb.debian.org/debian
fallback_suite=bookworm
fallback_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

fail() {
  echo "darknet/upstream/fetch.sh: $*" >&2
  exit 1
}

[ $# -eq 2 ] || fail "usage: fetch.sh DOWNLOAD_DIR SOURCE_DIR"
mkdir -p "$1"
download=$(cd "$1" && pwd)
source_dir=$2

lock() { sed -n "s/^$1=//p" "$here/upstream.lock"; }
version=$(lock version)
tarball=$(lock tarball)
sha256=$(lock sha256)
[ -n "$version" ] && [ -n "$tarball" ] && [ -n "$sha256" ] || fail "upstream.lock lacks version, tarball or sha256"

sum() { sha256sum "$1" | cut -d' ' -f1; }

# Prints deb-src lines for the Debian mirrors this machine uses already, with their options (signing key).
own_sources() {
  local files=()
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do [ -r "$file" ] && files+=("$file"); done
  [ ${#files[@]} -eq 0 ] || sed -nE 's/^[[:space:]]*deb(-src)?[[:space:]]+/deb-src /p' "${files[@]}"
  # deb822: one paragraph per group of sources. A key given inline (not as a path) has no one-line form.
  for file in /etc/apt/sources.list.d/*.sources; do
    [ -r "$file" ] || continue
    awk -v RS='' -F'\n' '{
      split("", field)
      for (line = 1; line <= NF; ++line)
        if (match($line, /^[A-Za-z-]+:[ \t]*/)) {
          name = tolower($line); sub(/:.*/, "", name)
          field[name] = substr($line, RLENGTH + 1)
        }
      if (tolower(field["enabled"]) == "no") next
      options = ""
      if (field["signed-by"] ~ /^\//) { gsub(/[ \t]+/, ",", field["signed-by"]); options = "signed-by=" field["signed-by"] }
      if (field["check-valid-until"] != "") options = options (options == "" ? "" : " ") "check-valid-until=" field["check-valid-until"]
      if (options != "") options = "[" options "] "
      uris = split(field["uris"], uri, /[ \t]+/)
      suites = split(field["suites"], suite, /[ \t]+/)
      for (u = 1; u <= uris; ++u) for (s = 1; s <= suites; ++s)
        print "deb-src " options uri[u] " " suite[s] " " field["components"]
    }' "$file"
  done
}

# Keeps the lines of a Debian mirror's main suite and component.
only_debian_main() {
  awk '{
    start = 2
    if ($2 ~ /^\[/) { while (start <= NF && $start !~ /\]$/) ++start; ++start }
    if ($start !~ /debian/ || $start ~ /security/ || $(start + 1) ~ /-(security|updates|backports|proposed-updates)|\/$/) next
    for (component = start + 2; component <= NF; ++component)
      if ($component == "main") {
        for (field = 1; field <= start + 1; ++field) printf "%s ", $field
        print "main"
        next
      }
  }' | sort -u
}

private_apt() {
  local options=(-q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$download/apt/sources"
    -o Dir::State::lists="$download/apt/lists" -o Dir::Cache="$download/apt/cache" -o Acquire::Languages=none
    -o Acquire::Retries=3 -o Acquire::http::Timeout=30)
  # root's own directories may be closed to apt's download user.
  [ "$(id -u)" -ne 0 ] || options+=(-o APT::Sandbox::User=root)
  apt-get "${options[@]}" "$@" </dev/null
}

# Tries to download with the deb-src lines on stdin.
download_from() {
  rm -rf "$download/apt"
  mkdir -p "$download/apt/sources" "$download/apt/lists/partial" "$download/apt/cache/archives/partial"
  cat >"$download/apt/sources/debian.list"
  [ -s "$download/apt/sources/debian.list" ] || return 1
  private_apt update >"$download/apt.log" 2>&1 || true  # one bad mirror of several does not matter
  (cd "$download" && private_apt source --download-only "darknet=$version") >>"$download/apt.log" 2>&1
}

# A mirror that cannot be reached explains more than the missing package that follows from it.
why_not() {
  grep -m 1 -E '^[EW]: (Failed to fetch|The repository|GPG error)' "$download/apt.log" || grep '^E:' "$download/apt.log" | tail -n 1
}

if [ -f "$download/$tarball" ] && [ "$(sum "$download/$tarball")" != "$sha256" ]; then
  rm -f "$download/$tarball"  # left over from an interrupted download
fi
if [ ! -f "$download/$tarball" ]; then
  command -v apt-get >/dev/null ||
    fail "no apt-get here: unpack Debian's source package darknet $version yourself and pass DARKNET_SRC=dir"
  echo "fetching upstream darknet $version (Debian source package)"
  fallback="deb-src $([ ! -r $fallback_keyring ] || echo "[signed-by=$fallback_keyring] ")$fallback_mirror $fallback_suite main"
  own_sources | only_debian_main | download_from || echo "$fallback" | download_from ||
    fail "cannot download darknet $version: $(why_not); or pass DARKNET_SRC=dir"
  rm -rf "$download/apt"
fi

actual=$(sum "$download/$tarball")
if [ "$actual" != "$sha256" ]; then
  rm -f "$download/$tarball"
  fail "$tarball has SHA-256 $actual where upstream.lock says $sha256: not the pinned source, removed"
fi

# Unpacked beside its place and then moved, so that an interrupted run leaves no half tree. --touch: what was built from
# another version is older than these files.
rm -rf "$source_dir" "$source_dir.new"
mkdir -p "$source_dir.new"
tar -xJf "$download/$tarball" -C "$source_dir.new" --strip-components=1 --no-same-owner --touch
mv "$source_dir.new" "$source_dir"
