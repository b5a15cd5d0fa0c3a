#!/bin/bash
# experiments_gkt.sh [OUT] [IMAGES] [ROUNDS] [SEEDS]: FedGKT, its published variant, ablations and baselines on Fashion-MNIST, in one
# code: OUT/results.csv, a chart of every run and OUT/page.md. From the top of the repository, after `make all examples`.
set -euo pipefail
out=${1:-build/experiments-gkt} images=${2:-2000} rounds=${3:-10} seeds=${4:-1 2 3} set=build/fashion
[ -f $set/test.data ] || examples/fashion/fetch.sh $set
mkdir -p "$out"
pair() { sed '/^\[gkt\]/,$d' cfg/gkt-small.cfg; }

# The centralised large network, and FedAvg's: the edges' first layer under the server's network.
whole() {
  sed '/filters=12/,$d' cfg/gkt-small-edge.cfg | sed '$d;' | sed '$d'
  pair | sed '1,/^max_batches/d'
}
small() { cat cfg/gkt-small-edge.cfg; }

echo 'run,lda,seed,server_test,edge_test,best_valid,last_valid,up_bytes,edge_seconds,server_seconds' >"$out/results.csv"
run() {  # name, network, lda, keys of [gkt]
  local name=$1 network=$2 lda=$3 seed backup
  shift 3
  for seed in $seeds; do
    backup=$out/$name-lda$lda-$seed
    mkdir -p "$backup"
    { $network; printf '\n[gkt]\n'; printf '%s\n' "lda=$lda" "rounds=$rounds" "images=$images" valid_images=1000 "$@"; } >"$out/$name.cfg"
    cp cfg/gkt-small-edge.cfg "$out"
    sed "s|^valid.*|&\ntest = $(sed -n 's/^valid *= *//p' $set/test.data)|; s|^backup.*|backup = $backup|" $set/valid.data >"$out/$name.data"
    build/darknet classifier train "$out/$name.data" "$out/$name.cfg" -seed "$seed" >"$backup/log" 2>&1
    awk -F, -v id="$name,$lda,$seed,$(sed -n 's/^test: accuracy \(.*\)% server, \(.*\)% edge.*/\1,\2/p' "$backup/log")" '
      NR > 1 { if ($2 > best) best = $2; last = $2; up += $6; edge += $8; server += $9 }
      END { printf "%s,%.2f,%.2f,%d,%.1f,%.1f\n", id, 100 * best, 100 * last, up, edge, server }' "$backup/${name}_rounds.csv" |
      tee -a "$out/results.csv"
  done
}

gkt=(edge=gkt-small-edge.cfg edges=4 server_epochs=2)
run central-large whole 0 method=fedavg edges=1
run central-small small 0 method=fedavg edges=1
for lda in 0 0.5; do
  run gkt pair $lda "${gkt[@]}"
  run gkt-published pair $lda "${gkt[@]}" average=0 match=index logits=train
  run fedavg-large whole $lda method=fedavg edges=4
  run fedavg-small small $lda method=fedavg edges=4
done
for transfer in up down none; do run gkt-$transfer pair 0.5 "${gkt[@]}" transfer=$transfer; done
run gkt-index pair 0.5 "${gkt[@]}" match=index
run gkt-apart pair 0.5 "${gkt[@]}" average=0
run gkt-training-mode pair 0.5 "${gkt[@]}" logits=train

{
  printf '# Knowledge transfer on Fashion-MNIST\n\nMade by `examples/fashion/experiments_gkt.sh`: %s pictures over 4 edges, %s rounds, seeds %s.\n' \
    "$images" "$rounds" "$seeds"
  printf 'Accuracy in %% on the 10,000 test pictures, of the round that was best on validation pictures; lda 0: the same mixture everywhere.\n\n'
  awk -F, '{ gsub(",", " | "); print "| " $0 " |" } NR == 1 { print "|---|---|---|---|---|---|---|---|---|---|" }' "$out/results.csv"
  printf '\n'
  for chart in "$out"/*/*_rounds.png; do printf '%s: ![%s](%s)\n\n' "${chart#"$out"/}" "$chart" "${chart#"$out"/}"; done
} >"$out/page.md"
echo "$out/page.md"
