#!/usr/bin/env bash
# The 40 % claim, tested: 10 configurations x 3 seeds, about 80 minutes on one core. Usage: run.sh [folder for the runs]
# One thread, so that it can be pinned to a core and its seconds are not another program's: taskset -c 0 ./run.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
runs="${1:-outputs/forty_percent}"
fixed=(stream=split_fashion_mnist stream.samples_per_class=500 stream.test_samples_per_class=200 model=slim_resnet18
  trainer.epochs=5 trainer.batch_size=64 trainer.threads=1 strategy=replay strategy.replay.capacity=500
  strategy.replay.batch_size=16 tracking=none)
one() { # name, seed, overrides
  local folder="$runs/$1/$2"
  [ -f "$folder/result.json" ] && grep -q '"status": "complete"' "$folder/result.json" && return
  python run.py "${fixed[@]}" "seed=$2" "hydra.run.dir=$folder" "${@:3}"
}
for seed in 0 1 2; do # seeds outside: a slow hour of the machine hits every configuration
  one full "$seed"
  one last_k_2 "$seed" selector=last_k selector.k=2
  one last_k_3 "$seed" selector=last_k selector.k=3
  for fraction in 0.20 0.35 0.46 0.56 0.66; do
    one "budget_$fraction" "$seed" selector=budget selector.cache_aware=true "selector.fraction=$fraction"
  done
  one autofreeze_20 "$seed" selector=autofreeze selector.intervals=20
  one random_0.46 "$seed" selector=budget selector.cache_aware=true selector.fraction=0.46 selector.value=random
done
python experiments/forty_percent/summarise.py "$runs"
