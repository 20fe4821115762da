#!/usr/bin/env bash
# The rate of each configuration of paper.yaml: the better of two by held-out images of the first two tasks, one seed that is not used again;
# full fine-tuning, whose best lay between them, has a third.
#   FROSTLINE_DATA=FOLDER/WITH/train/AND/test benchmarks/papers/forty_percent_pretrained/search.sh CHECKPOINT.safetensors [FOLDER]
set -euo pipefail
checkpoint=$1 out=${2:-outputs/forty_percent_pretrained_search}
rates="0.0001 0.001"
try() { # name, overrides
  local name=$1
  shift
  for rate in $rates; do
    folder="$out/$name/$rate"
    grep -q '"status": "complete"' "$folder/result.json" 2> /dev/null && continue
    python -m frostline run stream=image_folder stream.scenario=class stream.tasks=2 stream.classes_per_task=2 stream.image_size=96 stream.scaling=half \
      stream.samples_per_class=250 stream.validation=0.2 trainer.evaluate_on=validation stream.in_memory=true model=timm \
      model.name=tf_efficientnet_lite0 model.checkpoint="$checkpoint" strategy=replay strategy.replay.capacity=250 \
      strategy.replay.buffer=class_balanced strategy.replay.batch_size=16 optimizer=adamw optimizer.lr=$rate trainer.epochs=3 \
      trainer.batch_size=32 trainer.threads=1 tracking=none 'figures=[]' cost.reference_steps=0 seed=100 hydra.run.dir="$folder" "$@" > "$folder.log" 2>&1 \
      || echo "$name $rate failed"
    echo "$name $rate $(python -c "import json; print(json.load(open('$folder/result.json'))['metrics']['average_accuracy'])")"
  done
}
mkdir -p "$out"/{full,head,last_k_3,last_k_5,norms,budget,autofreeze,lora}
try last_k_3 selector=last_k selector.k=3 selector.warmup_tasks=0
rates="0.0001 0.0003 0.001" try full
try last_k_5 selector=last_k selector.k=5 selector.warmup_tasks=0
try head selector=head selector.warmup_tasks=0
try norms selector=norms selector.warmup_tasks=0
try budget selector=budget selector.fraction=0.35 selector.cache_aware=true selector.warmup_tasks=0
try autofreeze selector=autofreeze selector.intervals=20 selector.warmup_tasks=0
try lora selector=lora selector.warmup_tasks=0
