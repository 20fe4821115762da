#!/usr/bin/env bash
# Classifiers in closed form on pretrained features, beside full fine-tuning, LoRA and the last block with replay.
#   experiments/closed_form/run.sh clinc PATH/WITH/data_full.json/AND/domains.json [FOLDER] [SETTING=VALUE ...]
#   experiments/closed_form/run.sh cifar PATH/WITH/train/AND/test CHECKPOINT.safetensors [FOLDER] [SETTING=VALUE ...]
# CLINC150: ten domains of fifteen intents, MiniLM. CIFAR-10 as image files: five tasks of two classes, 500 images of each to learn from and 200 to test on,
# EfficientNet-Lite0 at 96 pixels. Class-incremental both; a run that is complete is left alone, a killed one goes on.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
what=$1 data=$2
shift 2
if [ "$what" = clinc ]; then
  stream=(stream=text_table stream.path="$data/data_full.json" stream.groups="$data/domains.json" stream.scenario=class model=minilm)
  full=5e-5 lora=1e-3 last=5e-4
else
  stream=(stream=image_folder stream.data_root="$data" stream.tasks=5 stream.scenario=class stream.image_size=96
    stream.samples_per_class=500 stream.test_samples_per_class=200 stream.scaling=half stream.in_memory=true model=timm model.name=tf_efficientnet_lite0 model.checkpoint="$1")
  full=1e-4 lora=1e-3 last=1e-3
  shift
fi
out=${1:-outputs/closed_form}/$what
shift || true
run() {
  local folder="$out/$1"
  shift
  if [ -e "$folder/checkpoint.pt" ]; then
    "$python" run.py resume="$folder"
  else
    "$python" run.py "${stream[@]}" optimizer=adamw trainer.epochs=3 trainer.batch_size=32 tracking=none 'figures=[]' \
      hydra.run.dir="$folder" "$@"
  fi
}
run ncm strategy=ncm strategy.ncm.warmup_tasks=0 "$@"
run slda strategy=slda strategy.slda.warmup_tasks=0 "$@"
run fecam strategy=fecam strategy.fecam.warmup_tasks=0 strategy.fecam.covariance=shared "$@"
run ranpac strategy=ranpac strategy.ranpac.warmup_tasks=0 strategy.ranpac.projection=2000 "$@"
run last_k_replay strategy=replay strategy.replay.capacity=500 selector=last_k selector.warmup_tasks=0 optimizer.lr=$last "$@"
run lora strategy=finetune selector=lora selector.warmup_tasks=0 optimizer.lr=$lora "$@"
run full strategy=finetune optimizer.lr=$full "$@"
"$python" experiments/closed_form/summarise.py "$out"
