#!/bin/bash
# resnet.sh PART BLOCKS [CLASSES]: prints a residual network for 32×32 pictures, as the cfgs beside it are made.
#   full BLOCKS     a 3×3 convolution to 16 channels, then three stages of BLOCKS bottlenecks: 6 → ResNet-56, 12 → ResNet-110
#   server BLOCKS   the same without that convolution, for its 16×32×32 output
#   edge BLOCKS     that convolution and BLOCKS bottlenecks of the first stage: 2 → ResNet-8
# A bottleneck is 1×1, 3×3 (with the stride), 1×1 to four times the planes. What Darknet does differently from the usual
# code is written so that it comes to the same: a route of one layer keeps a 1×1 convolution, which overwrites the delta of
# what it reads, from the block's input; a max-pool of one pixel takes every second pixel for the strided projection, or the network's input as
# a layer that can be pointed to.
set -euo pipefail
part=$1 blocks=$2 classes=${3:-10} layer=-1

section() {
  printf '\n[%s]\n' "$1"
  shift
  [ $# = 0 ] || printf '%s\n' "$@"
  layer=$((layer + 1))
}
convolution() { section convolutional batch_normalize=1 filters=$1 size=$2 stride=$3 pad=1 activation=$4; }

bottleneck() {  # planes, stride, whether the input has other channels or another size than the output
  local planes=$1 stride=$2 projected=$3 input=$layer skip=$layer first=-1
  if [ "$projected" = yes ]; then
    if [ "$stride" != 1 ]; then section maxpool size=1 stride="$stride"; else section route layers=-1; fi
    convolution $((4 * planes)) 1 1 linear
    skip=$layer first=$((input - layer - 1))
  fi
  section route layers=$first
  convolution "$planes" 1 1 relu
  convolution "$planes" 3 "$stride" relu
  convolution $((4 * planes)) 1 1 linear
  section shortcut from=$((skip - layer - 1)) activation=relu
}

channels=3
[ "$part" != server ] || channels=16
printf '# Made by resnet.sh %s.\n[net]\n' "$*"
printf '%s\n' batch=64 subdivisions=1 width=32 height=32 channels=$channels learning_rate=0.001 decay=0.0001 adam=1 amsgrad=1 max_batches=20000
if [ "$part" = server ]; then section maxpool size=1 stride=1; else convolution 16 3 1 relu; fi
stages='16 32 64'
[ "$part" != edge ] || stages=16
for planes in $stages; do
  stride=2
  [ "$planes" != 16 ] || stride=1
  bottleneck "$planes" $stride yes
  for ((block = 1; block < blocks; ++block)); do bottleneck "$planes" 1 no; done
done
section avgpool
section connected output="$classes" activation=linear
section softmax
[ "$part" != server ] || section gkt edge=gkt-resnet8.cfg
