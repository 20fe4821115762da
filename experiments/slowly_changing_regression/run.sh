#!/usr/bin/env bash
# 100 seeds of the slowly-changing regression, a million examples each: SGD at .01 and at .003, a linear net, and beside them two seeds of continual backprop.
#   experiments/slowly_changing_regression/run.sh [FOLDER] [SETTING=VALUE ...]
# Two runs at a time, a thread each; what is complete is left alone, what was killed goes on with the same command.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1
python=${PYTHON:-python}
out=${1:-outputs/slowly_changing_regression}
shift || true
more=("$@")
seeds="[$(seq -s, 0 99)]"
run() {
  local name=$1
  shift
  if [ -e "$out/$name/checkpoint.pt" ] || [ -e "$out/$name/seed_0/checkpoint.pt" ]; then
    "$python" run.py resume="$out/$name" > "$out/$name.log" 2>&1
  else
    "$python" run.py experiment=dohare2024_slowly_changing_regression trainer.threads=1 tracking=none 'figures=[]' hydra.run.dir="$out/$name" \
      "$@" "${more[@]}" > "$out/$name.log" 2>&1
  fi
  echo "$name: complete"
}
mkdir -p "$out"
begin=$SECONDS
(
  run relu_0.01 trainer.seeds="$seeds"
  run linear_0.01 'model.hidden=[]' trainer.seeds="$seeds"
) &
(
  run relu_0.003 trainer.seeds="$seeds" optimizer.lr=0.003
  run continual_backprop_0.01 strategy=continual_backprop trainer.seeds=[0,1]
) &
wait -n && wait -n
echo "all: $((SECONDS - begin)) s"
"$python" experiments/slowly_changing_regression/summarise.py "$out"
