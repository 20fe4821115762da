#!/usr/bin/env bash
# The whole comparison on one GPU, without a network: loops against their floors, plain, compiled and in bfloat16, and seeds at once.
# Usage: gpu.sh [device] [Python] [folder for the JSON]; needs the full Fashion-MNIST (Debian: dataset-fashion-mnist). Under 10 minutes.
# On a machine without a GPU: gpu.sh cpu. For a quick look: ROUNDS=1 MODELS="mlp slim_resnet18" gpu.sh cpu
set -euo pipefail
cd "$(dirname "$0")/../.."
device="${1:-cuda}" python="${2:-python}" out="${3:-benchmarks/speed/results/$device}"
read -ra models <<<"${MODELS:-mlp slim_resnet18 resnet18 transformer}"
mkdir -p "$out"
common=(--device "$device" --rounds "${ROUNDS:-3}")
loops=("$python" benchmarks/speed/loops.py "${common[@]}" --no-avalanche --models "${models[@]}")
"${loops[@]}" --out "$out/loops.json"
"${loops[@]}" --methods finetune partial --compile reduce-overhead --out "$out/loops_compiled.json"
"${loops[@]}" --methods finetune --precision bfloat16 --out "$out/loops_bfloat16.json"
"$python" benchmarks/speed/seeds.py "${common[@]}" --out "$out/seeds.json"
"$python" - "$out" <<'END'  # one file with the device's name
import json, sys
from pathlib import Path
folder = Path(sys.argv[1])
parts = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json")) if path.stem != "all"}
(folder / "all.json").write_text(json.dumps(parts, indent=1))
print(folder / "all.json", parts["loops"]["environment"]["device_name"])
END
