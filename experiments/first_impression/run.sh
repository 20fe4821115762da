#!/usr/bin/env bash
# The default job with three seeds: full against partial retraining, and replay beside them. A minute and a half on 2 cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
to=multirun/first_impression
"$python" run.py -m tracking=none 'figures=[]' strategy=finetune,partial,replay seed=0,1,2 hydra.sweep.dir=$to
"$python" -m frostline compare $to --out $to/comparison
cp $to/comparison/{comparison.csv,accuracy_against_cost.png} experiments/first_impression/
