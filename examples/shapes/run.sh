#!/bin/bash
# The demo (`make demo`): generates pictures, trains a detector on them with four local workers, measures it,
# shows it. Usage: run.sh [BUILD_DIR]   Everything is written to BUILD_DIR/demo.
#   DARKNET_SRC=dir  upstream's source, whose photographs are the backgrounds (default: the one `make` fetched)
#   SEED=n           another set of pictures (default 1)
set -euo pipefail
export LC_ALL=C  # decimal points

fail() {
  echo "examples/shapes/run.sh: $*" >&2
  exit 1
}

root=$(cd "$(dirname "$0")/../.." && pwd)
build=$(cd "${1:-$root/build}" 2>/dev/null && pwd) || fail "no folder ${1:-$root/build}; run make first"
upstream=$(cd "${DARKNET_SRC:-$root/build/upstream}" 2>/dev/null && pwd) || fail "no upstream source; run make first"
seed=${SEED:-1}
generate=$build/examples/shapes/generate
mosaic=$build/examples/shapes/mosaic
for program in "$build/darknet" "$generate" "$mosaic"; do
  [ -x "$program" ] || fail "no program $program; run make examples first"
done
PATH=$build:$PATH

# All commands below run in one folder that looks like any Darknet user's: data/, cfg/, and what comes out.
mkdir -p "$build/demo/cfg"
cd "$build/demo"
cp "$root/cfg/shapes.cfg" cfg/
start=$SECONDS
step() { printf '\n== %s (%d s since the start)\n' "$1" $((SECONDS - start)); }

# The set is made again only when the generator, its photographs or the seed have changed.
recipe="seed $seed $(cat "$generate" "$upstream"/data/*.jpg | sha256sum | cut -d' ' -f1)"
if [ "$(cat data/.recipe 2>/dev/null || true)" != "$recipe" ]; then
  step "generating pictures"
  rm -rf data
  "$generate" --photos "$upstream/data" --out data --seed "$seed"
  echo "$recipe" >data/.recipe
fi

step "training with four workers, each holding a quarter of every feature map"
rm -rf data/backup chart.png chart_shapes.png predictions.jpg result.json map.txt
mkdir data/backup
darknet detector train data/obj.data cfg/shapes.cfg -map -dont_show

step "measuring on pictures it has not seen"
darknet detector map data/obj.data cfg/shapes.cfg data/backup/shapes_final.weights | tee map.txt
map=$(sed -nE 's/.*mAP@0\.50\) = ([01]\.[0-9]+).*/\1/p' map.txt | tail -n 1)
[ -n "$map" ] || fail "no line with 'mAP@0.50) = ' in $PWD/map.txt"

step "drawing what it finds"
head -n 12 data/valid.txt |
  darknet detector test data/obj.data cfg/shapes.cfg data/backup/shapes_final.weights -thresh 0.3 -dont_show -out result.json >test.txt
"$mosaic" --results result.json --out predictions.jpg --threshold 0.3
for file in predictions.jpg chart.png; do
  [ -s "$file" ] || fail "$PWD/$file was not written"
done

printf '\n'
printf '%s\n' "weights:     $PWD/data/backup/shapes_final.weights" \
  "predictions: $PWD/predictions.jpg" "chart:       $PWD/chart.png" "time:        $((SECONDS - start)) s"
printf 'mAP50 = %.2f\n' "$map"
