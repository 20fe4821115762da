#!/usr/bin/env bash
# The rate of each configuration of forty_percent_clinc and forty_percent_docstrings: the best of three by held-out texts of the first two tasks, one
# seed that is not used again.
#   benchmarks/papers/forty_percent_clinc/search.sh clinc FOLDER/WITH/data_full.json/AND/domains.json [RUNS]
#   benchmarks/papers/forty_percent_clinc/search.sh docstrings - [RUNS]
set -euo pipefail
what=$1 data=$2 out=${3:-outputs/search}/$1
if [ "$what" = clinc ]; then
  python - "$data/domains.json" "$out" << 'PYTHON'
import json, pathlib, sys
domains = json.loads(pathlib.Path(sys.argv[1]).read_text())
texts = json.loads(pathlib.Path(sys.argv[1]).with_name("data_full.json").read_text())
first = dict(list(domains.items())[:2])
known = {label for labels in first.values() for label in labels}
out = pathlib.Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
(out / "domains.json").write_text(json.dumps(first))
(out / "texts.json").write_text(json.dumps({part: [row for row in texts[part] if row[1] in known] for part in ("train", "test")}))
PYTHON
  stream=(stream=text_table "stream.path=$out/texts.json" "stream.groups=$out/domains.json" stream.scenario=class stream.samples_per_class=30
    strategy.replay.capacity=90)
else
  mkdir -p "$out"
  stream=(stream=package_docs "stream.packages=[torch,numpy,scipy,sklearn]" stream.tasks=2 stream.scenario=domain strategy.replay.capacity=100)
fi
try() { # name, rates, overrides
  local name=$1 rates=$2
  shift 2
  for rate in $rates; do
    folder="$out/$name/$rate"
    mkdir -p "$out/$name"
    grep -q '"status": "complete"' "$folder/result.json" 2> /dev/null || python -m frostline run "${stream[@]}" stream.validation=0.2 \
      trainer.evaluate_on=validation model=minilm strategy=replay strategy.replay.buffer=class_balanced strategy.replay.batch_size=16 \
      optimizer=adamw optimizer.lr="$rate" trainer.epochs=3 trainer.batch_size=32 trainer.threads=1 tracking=none 'figures=[]' \
      cost.reference_steps=0 seed=100 hydra.run.dir="$folder" "$@" > "$folder.log" 2>&1 || echo "$name $rate failed"
    echo "$name $rate $(python -c "import json; print(json.load(open('$folder/result.json'))['metrics']['average_accuracy'])")"
  done
}
low="0.00005 0.0002 0.001" high="0.0005 0.002 0.01"
try head "$high" selector=head selector.warmup_tasks=0
try last_k_1 "$low" selector=last_k selector.k=1 selector.warmup_tasks=0
try last_k_3 "$low" selector=last_k selector.k=3 selector.warmup_tasks=0
try norms "$high" selector=norms selector.warmup_tasks=0
try attention "$low" selector=attention_projections selector.warmup_tasks=0
try budget_35 "$low" selector=budget selector.fraction=0.35 selector.cache_aware=true selector.warmup_tasks=0
try autofreeze "$low" selector=autofreeze selector.intervals=20 selector.warmup_tasks=0
try lora "$low" selector=lora selector.warmup_tasks=0
try full "$low"
