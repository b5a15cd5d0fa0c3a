#!/bin/bash
# Trains a small network on Fashion-MNIST and prints its accuracy on pictures it has never seen. From the top of the repository,
# after `make all examples`.
set -euo pipefail
folder=build/fashion
[ -f $folder/test.data ] || examples/fashion/fetch.sh $folder
build/darknet classifier train $folder/valid.data examples/fashion/small.cfg -map -map_every 500 -clear -dont_show
build/darknet classifier valid $folder/test.data examples/fashion/small.cfg $folder/backup/small_best.weights 2>/dev/null | tail -1
