#!/usr/bin/env bash
# Streams as they came: Elec2 in time order, Omniglot by alphabet, speeches by year, CIFAR-10 blurred and imbalanced.
#   experiments/real_streams/run.sh elec     ELEC.CSV [OUT]
#   experiments/real_streams/run.sh omniglot FOLDER_OF_ALPHABETS [OUT]
#   experiments/real_streams/run.sh speeches FOLDER_OF_YEAR_NAME_PARTY.TXT [OUT]
#   experiments/real_streams/run.sh cifar    FOLDER_WITH_TRAIN_AND_TEST [OUT]
# CLINC150 by domain is experiments/closed_form. What is complete is left alone; what was killed goes on with the same command. `elec` compares with river's detectors: pip install river.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
what=${1:?which stream} data=${2:?where its data are}
out=${3:-outputs/real_streams/$what}
mkdir -p "$out"
run() {
  local name=$1
  shift
  if [ -e "$out/$name/checkpoint.pt" ]; then
    "$python" run.py resume="$out/$name"
  else
    "$python" run.py tracking=none hydra.run.dir="$out/$name" "$@"
  fi | tee "$out/$name.log" | grep -E "^Learned|prequential|stability gap|anytime" || true
}
case $what in
  elec)
    months=(stream=table stream.path="$data" stream.label=class stream.task_column=row stream.tasks=34 stream.prequential=true
      model=mlp 'model.hidden=[64,64]' optimizer.lr=0.01 trainer.epochs=5)
    for strategy in frozen finetune replay; do
      echo "== $strategy"
      run "$strategy" strategy=$strategy "${months[@]}"
    done
    "$python" -m frostline drift "$out/frozen" --learned 1 --against previous
    "$python" experiments/real_streams/reference.py "$out"
    ;;
  omniglot)
    letters=(stream=image_folder stream.data_root="$data" stream.task_folders=true stream.test_share=0.2 stream.image_size=28
      stream.scaling=unit stream.in_memory=true model=cnn optimizer.lr=0.05 trainer.epochs=20)
    for strategy in finetune replay; do
      echo "== $strategy"
      run "$strategy" strategy=$strategy "${letters[@]}"
    done
    ;;
  speeches)
    "$python" experiments/real_streams/speeches.py "$data" "$out/speeches.csv"
    for strategy in finetune replay; do
      echo "== $strategy"
      run "$strategy" strategy=$strategy selector=last_k selector.warmup_tasks=0 stream=text_table stream.path="$out/speeches.csv" \
        stream.label=party stream.task_column=year stream.tasks=8 stream.length=64 model=minilm optimizer=adamw optimizer.lr=0.001 trainer.epochs=1
    done
    ;;
  cifar)
    for strategy in finetune replay; do
      echo "== $strategy"
      update=()
      [ $strategy = finetune ] || update=(strategy.replay.update=step)
      run "$strategy" strategy=$strategy "${update[@]}" stream=image_folder stream.data_root="$data" stream.image_size=32 stream.scaling=half \
        stream.in_memory=true stream.arrival.how=si_blurry stream.arrival.imbalance=10 trainer=online stream.online=true trainer.batch_size=32 \
        trainer.evaluate_every=10 trainer.evaluate_samples=200 model=cnn optimizer.lr=0.03
    done
    ;;
  *)
    echo "unknown stream $what: expected elec, omniglot, speeches or cifar" >&2
    exit 1
    ;;
esac
