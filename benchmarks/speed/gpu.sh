#!/usr/bin/env bash
# The whole comparison on one GPU, without a network: loops against their floors, plain and compiled, and seeds at once.
# Usage: gpu.sh [device] [Python] [folder for the JSON]; needs the full Fashion-MNIST (Debian: dataset-fashion-mnist). Under 10 minutes.
# On a machine without a GPU: gpu.sh cpu, with ROUNDS=1 for a quick look.
set -euo pipefail
cd "$(dirname "$0")/../.."
device="${1:-cuda}" python="${2:-python}" out="${3:-benchmarks/speed/results/$device}" rounds="${ROUNDS:-3}"
mkdir -p "$out"
common=(--device "$device" --rounds "$rounds")
"$python" benchmarks/speed/loops.py "${common[@]}" --no-avalanche --out "$out/loops.json"
"$python" benchmarks/speed/loops.py "${common[@]}" --models slim_resnet18 transformer --methods finetune partial --compile on \
  --out "$out/loops_compiled.json"
"$python" benchmarks/speed/seeds.py "${common[@]}" --out "$out/seeds.json"
