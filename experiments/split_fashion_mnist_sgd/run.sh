#!/usr/bin/env bash
# Five strategies, five seeds, on the protocol; then the table and the figure of this folder. About four minutes on 2 cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
python run.py -m experiment=split_fashion_mnist_sgd tracking=none strategy=finetune,joint,ewc,replay,partial \
  seed=0,1,2,3,4 hydra.sweep.dir=multirun/split_fashion_mnist_sgd
python -m frostline compare multirun/split_fashion_mnist_sgd --out multirun/split_fashion_mnist_sgd/comparison
cp multirun/split_fashion_mnist_sgd/comparison/{comparison.csv,accuracy_against_cost.png} experiments/split_fashion_mnist_sgd/
