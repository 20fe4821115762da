#!/usr/bin/env bash
# EWC at two strengths against fine-tuning, task-incremental, five seeds. About four minutes on 2 cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
to=multirun/ewc_task_incremental
common=(experiment=split_fashion_mnist_sgd tracking=none stream.scenario=task seed=0,1,2,3,4)
python run.py -m "${common[@]}" strategy=finetune hydra.sweep.dir=$to/finetune
python run.py -m "${common[@]}" strategy=ewc strategy.ewc.strength=100,1000 hydra.sweep.dir=$to/ewc
python -m frostline compare $to --out $to/comparison
cp $to/comparison/{comparison.csv,accuracy_against_cost.png} experiments/ewc_task_incremental/
