#!/usr/bin/env bash
# Split MNIST as in Hsu et al. 2018 (arXiv 1810.12488), plain Adam, ten seeds in each scenario.
#   FROSTLINE_DATA=where/torchvision/has/MNIST experiments/hsu2018_split_mnist/run.sh [FOLDER] [SETTING=VALUE ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-outputs/hsu2018_split_mnist}
shift || true
python=${PYTHON:-python}
for scenario in task domain class; do
  "$python" run.py experiment=hsu2018_split_mnist stream.scenario=$scenario 'trainer.seeds=[0,1,2,3,4,5,6,7,8,9]' \
    'figures=[]' tracking=none hydra.run.dir="$out/$scenario" "$@"
done
"$python" experiments/hsu2018_split_mnist/summarise.py "$out"
