"""Does a change leave every number as it was? Accuracy, operations and weights of some thirty runs, bit for bit.

    python benchmarks/same_numbers.py --record before.json     # in the checkout before the change
    python benchmarks/same_numbers.py --against before.json    # in the one after it; exit code 1 where anything differs

Each run is `python run.py ...` on one thread, so that a change of the inside cannot hide in what is compared; two at a
time on two cores take about two minutes. Operations are compared row by row of the ledger.
"""

import argparse
import concurrent.futures
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
QUIET = ["trainer.threads=1", "tracking=none", "figures=[]", "cost.reference_steps=0"]
DIGITS = ["stream=split_digits", "model=mlp", "model.hidden=[32,32]", "trainer.epochs=2", "trainer.batch_size=32"]
TASKS = [*DIGITS, "stream.scenario=task"]
IMAGES = [
    "stream.scenario=class",
    "stream.samples_per_class=60",
    "stream.test_samples_per_class=100",
    "trainer.epochs=2",
]
DEEP = ["selector.warmup_tasks=1"]
RUNS: dict[str, list[str]] = {
    "finetune": DIGITS,
    "ewc": [*TASKS, "strategy=ewc"],
    "ewc_online_exact": [*TASKS, "strategy=ewc", "strategy.ewc.mode=online", "strategy.ewc.labels=exact"],
    "replay": [*DIGITS, "strategy=replay", "strategy.replay.capacity=50"],
    "replay_ewc_last_k": [*TASKS, "strategy=[replay,ewc]", "selector=last_k", *DEEP],
    "joint": [*DIGITS, "strategy=joint"],
    "cumulative_keep": [*DIGITS, "strategy=cumulative", "optimizer=adam", "trainer.optimizer_state=keep"],
    "online_balanced": [
        *DIGITS[:3], "strategy=replay", "strategy.replay.update=step", "strategy.replay.buffer=class_balanced",
        "trainer=online", "stream.online=true",
    ],
    "lisa": [*TASKS, "selector=lisa", "selector.interval=3"],
    "freezeout": [*TASKS, "selector=freezeout", "trainer.epochs=4"],
    "autofreeze": [*TASKS, "strategy=replay", "selector=autofreeze", "trainer.epochs=6"],
    "budget": [*TASKS, "strategy=replay", "selector=budget", "selector.cache_aware=true", *DEEP, "trainer.epochs=4"],
    "lora": [*TASKS, "selector=lora", "selector.rank=2", *DEEP],
    "snr_adam": [*TASKS, "selector=snr", "optimizer=adam", *DEEP],
    "rgn": [*TASKS, "selector=rgn", "selector.fraction=0.6", *DEEP],
    "validation": [*TASKS, "stream.validation=0.2", "trainer.evaluate_on=validation"],
    "permuted_batch_norm": [
        "stream=permuted_digits", "stream.tasks=3", "stream.scenario=class", "model=slim_resnet18", "model.filters=4",
        "strategy=replay", "selector=head", *DEEP, "trainer.epochs=2",
    ],
    "rotated_domain": ["stream=rotated_digits", "stream.tasks=3", "model=cnn", "strategy=ewc", "trainer.epochs=1"],
    "partial": ["strategy=partial", *IMAGES],
    "augmented": ["trainer.augment=[flip,crop]", "strategy=[replay,ewc]", *IMAGES],
    "augmented_views": [
        "trainer.augment=[crop]", "strategy=partial", "trainer.prefix_cache_views=2", *IMAGES, "trainer.epochs=5",
    ],
    "transformer": [
        "model=vit", "model.width=16", "model.depth=2", "model.heads=2", "selector=attention_projections", *IMAGES, *DEEP,
    ],
    "text": [
        "stream=package_docs", "stream.packages=[rich,networkx,scipy,sympy]", "stream.tasks=2", "stream.length=16",
        "stream.texts_per_package=40", "model=minilm", "selector=last_k", "optimizer=adamw", "trainer.epochs=2",
    ],
    "lwf_cosine": [*DIGITS, "strategy=[lwf,replay]", "schedule=cosine", "schedule.warmup=0.1", "selector=lisa"],
    "der_pp": [*DIGITS, "strategy=[replay,der_pp]", "selector=last_k", *DEEP],
    "er_ace": [*DIGITS, "strategy=[replay,er_ace]", "held_out=[rotated_digits]"],
    "packnet": [*TASKS, "strategy=packnet", "selector=fisher", "selector.fraction=0.6", *DEEP],
    "slda": [*DIGITS, "strategy=slda"],
    "continual_backprop": [*TASKS, "strategy=continual_backprop", "optimizer=adam", "strategy.continual_backprop.rate=0.01"],
    "seeds_lwf": [*TASKS, "strategy=lwf", "trainer.seeds=[0,1]"],
    "seeds": [*TASKS, "strategy=[replay,ewc]", "selector=last_k", *DEEP, "trainer.seeds=[0,1]"],
    "seeds_adam": [*DIGITS, "strategy=replay", "optimizer=adam", "trainer.seeds=[3,4,5]"],
}  # fmt: skip


def numbers(folder: Path) -> dict[str, Any]:
    """Return what a run folder says: accuracy, the ledger's counts, a digest of the weights."""
    content = json.loads((folder / "result.json").read_text())
    counts = [[row[key] for key in ("task", "phase", "steps", "samples", "flops")] for row in content["ledger"]]
    weights = hashlib.blake2b(digest_size=16)
    for name, value in torch.load(folder / "checkpoint.pt", weights_only=True)["model"].items():
        weights.update(name.encode())
        weights.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {"accuracy": content["accuracy"], "counts": counts, "weights": weights.hexdigest()}


def record(name: str) -> dict[str, Any]:
    """Do one run; return its numbers by folder (several seeds have several)."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, str(ROOT / "run.py"), *RUNS[name], *QUIET, f"hydra.run.dir={place}/run"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True)
        if done.returncode:
            return {"failed": done.stderr[-2000:]}
        folders = sorted(path.parent for path in Path(place, "run").rglob("result.json"))
        return {folder.name: numbers(folder) for folder in folders}


def main() -> None:
    """Record, or compare and say what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    options = parser.parse_args()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = dict(zip(options.only, pool.map(record, options.only), strict=True))
    for name, own in found.items():
        if "failed" in own:
            print(f"{name}: failed\n{own['failed']}")
    if options.record:
        options.record.write_text(json.dumps(found))
        print(f"{len(found)} runs recorded in {options.record}")
    if options.against:
        before = json.loads(options.against.read_text())
        wrong, new = 0, found.keys() - before.keys()
        for name, own in found.items():
            if name in new:
                print(f"{name:20} not recorded before")
                continue
            parts = {key for run in own for key in own[run] if own[run][key] != before[name].get(run, {}).get(key)}
            wrong += bool(parts or own.keys() != before[name].keys())
            print(f"{name:20} {'other ' + ', '.join(sorted(parts)) if parts else 'the same'}", flush=True)
        compared = len(found) - len(new)
        print(f"{compared - wrong} of {compared} runs are the same bits" + (f", {len(new)} are new" if new else ""))
        raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
