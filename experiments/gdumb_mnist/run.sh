#!/usr/bin/env bash
# GDumb on Split MNIST as its authors report it: 500 samples with MLP-100, 4400 with MLP-400, five seeds each.
#   FROSTLINE_DATA=where/torchvision/has/MNIST experiments/gdumb_mnist/run.sh [FOLDER] [SETTING=VALUE ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-outputs/gdumb_mnist}
shift || true
python=${PYTHON:-python}
run() {
  "$python" run.py --config-dir experiments/gdumb_mnist/conf experiment=gdumb_mnist strategy.gdumb.capacity="$1" model.width="$2" 'trainer.seeds=[0,1,2,3,4]' \
    'figures=[]' tracking=none hydra.run.dir="$out/$1_$2" "${@:3}"
}
run 500 100 "$@"
run 4400 400 "$@"
"$python" experiments/gdumb_mnist/summarise.py "$out"
