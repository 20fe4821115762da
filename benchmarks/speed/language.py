"""How fast the decoder learns, and how much memory a large vocabulary takes.

    python benchmarks/speed/language.py [--rounds 5] [--out FILE]     # needs the extra `text`; keep the machine quiet
    python benchmarks/speed/language.py --shares                      # what parts take of a full step's operations: counted
    python benchmarks/speed/language.py --savers [--out FILE]         # what micro-batches and checkpointing save, and cost

Speed: tokens a second of training steps by frostline, by a bare loop over the same module, and by Hugging Face's
LlamaForCausalLM of the same shape (with sdpa), AdamW, interleaved, medians of the rounds' ratios. Memory: the highest of the
process while three steps with a vocabulary of 50,000 words are taken, the loss in pieces or the logits as a whole.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frostline.core.structure import everything
from frostline.core.torchvision_schemas import torchvision
from frostline.costs import CostMeter
from frostline.costs.flops import count_flops
from frostline.loop.run import Run
from frostline.loop.settings import TrainerConfig
from frostline.loop.training import run_stream
from frostline.models import decoder
from frostline.records.environment import environment
from frostline.selectors import Everything, ExceptFirstK, LastK
from frostline.selectors.roles import ROLES, names_of_role
from frostline.speed.fast import Fast
from frostline.strategies import Finetune
from frostline.streams import from_tasks

LENGTH, BATCH, STEPS = 256, 16, 12
WORDS = 257
SHAPES = {  # width, depth, heads, kv_heads, hidden
    "nano": (128, 4, 4, 2, 384),
    "micro": (256, 6, 8, 4, 704),
}


def tokens(words: int, batches: int = STEPS) -> torch.Tensor:
    """Return random text; what it says makes no step slower or faster."""
    return torch.randint(0, words, (batches * BATCH, LENGTH + 1), generator=torch.Generator().manual_seed(0))


def by_frostline(
    model: nn.Module, text: torch.Tensor, words: int, pieces: str = "auto", **more: Any
) -> tuple[float, float]:
    """Return the seconds of the phase `train`, and its highest memory in MiB."""
    data = (text[:, :-1].contiguous(), text[:, 1:].contiguous())
    stream = from_tasks([(data, tuple(part[:BATCH] for part in data))], scenario="domain", classes=words)
    settings = TrainerConfig(epochs=1, batch_size=BATCH, compile="off", loss_in_pieces=pieces, **more)
    optimizer = partial(torch.optim.AdamW, lr=1e-4, fused=True)  # as trainer.fused=auto has it
    meter = CostMeter(torch.device("cpu"))
    run_stream(
        Run(model, stream, Finetune(), Everything(), optimizer, meter, settings, Fast(settings), 0, reference_steps=0)
    )
    row = next(row for row in meter.rows if row.phase == "train")
    return row.seconds, (row.peak_memory_bytes or 0) / 2**20


def bare(model: nn.Module, text: torch.Tensor) -> float:
    """Return the seconds of a hand-written loop."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()
    began = time.perf_counter()
    for rows in text.split(BATCH):
        out = model(rows[:, :-1])
        logits = out if isinstance(out, torch.Tensor) else out.logits
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).backward()
        optimizer.step()
    return time.perf_counter() - began


def llama(shape: tuple[int, ...]) -> nn.Module:
    """Return Hugging Face's model of the same shape."""
    torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    width, depth, heads, kv_heads, hidden = shape
    given = {"attn_implementation": "sdpa", "use_cache": False, "tie_word_embeddings": True, "vocab_size": WORDS}
    given |= {"hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": depth}
    return LlamaForCausalLM(LlamaConfig(**given, num_attention_heads=heads, num_key_value_heads=kv_heads))


def speed(rounds: int) -> list[dict]:
    """Return a row for each shape."""
    rows = []
    for name, shape in SHAPES.items():
        text, ratios, seconds = tokens(WORDS), {"bare": [], "hugging face": []}, []
        for number in range(rounds + 1):  # the first warms up
            ours, _ = by_frostline(decoder((LENGTH,), WORDS, *shape), text, WORDS)
            times = {
                "bare": bare(decoder((LENGTH,), WORDS, *shape), text),
                "hugging face": bare(llama(shape), text),
            }
            if number:
                seconds.append(ours)
                for side, value in times.items():
                    ratios[side].append(value / ours)
        count = STEPS * BATCH * LENGTH
        row = {"model": name, "tokens_per_second": round(count / statistics.median(seconds))}
        row |= {f"of_{side.replace(' ', '_')}": round(statistics.median(v), 3) for side, v in ratios.items()}
        print(row, flush=True)
        rows.append(row)
    return rows


def memory() -> dict:
    """Return the highest memory of steps with a large vocabulary, in MiB, and their seconds."""
    found = {}
    for pieces in ("off", "on"):
        command = [sys.executable, __file__, "--steps", pieces]
        seconds, highest = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
        found |= {f"{pieces}_mib": round(float(highest)), f"{pieces}_seconds": round(float(seconds), 1)}
    found["ratio"] = round(found["on_mib"] / found["off_mib"], 3)
    print(found, flush=True)
    return found


def steps(pieces: str, words: int = 50_000) -> tuple[float, float]:
    """Return what three steps take."""
    return by_frostline(decoder((LENGTH,), words, *SHAPES["nano"]), tokens(words, 3), words, pieces)


SAVERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "micro_batch_size=4": {"micro_batch_size": 4},
    "activation_checkpointing": {"activation_checkpointing": True},
    "both": {"micro_batch_size": 4, "activation_checkpointing": True},
}


def savers() -> list[dict]:
    """Return the highest memory and the seconds of three steps of the wider decoder with each saver, in turn, twice."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SAVERS}
    for name in [*SAVERS, *SAVERS]:
        command = [sys.executable, __file__, "--saver", name]
        seconds, highest = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
        found[name].append((float(seconds), float(highest)))
    rows = [
        {"saver": name, "seconds": round(min(s for s, _ in took), 1), "mib": round(min(m for _, m in took))}
        for name, took in found.items()
    ]
    for row in rows:
        print(row, flush=True)
    return rows


def shares() -> None:
    """Print what a step takes of a full one's operations, and which share of the parameters it trains."""
    model, x = decoder((LENGTH,), WORDS), tokens(WORDS, 1)[:4, :-1]
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    parts = {"everything": everything(model)} | {role: named for role in ROLES if (named := names_of_role(model, role))}
    parts |= {"last_k k=1": LastK(k=1).names(model), "except_first_k k=3": ExceptFirstK(k=3).names(model)}
    parts["attention_projections and mlp_gate_up"] = parts["attention_projections"] | parts["mlp_gate_up"]
    full = 0
    for name, thawed in parts.items():
        for n, p in model.named_parameters():
            p.requires_grad_(n in thawed)
        flops = count_flops(lambda: nn.functional.cross_entropy(model(x).flatten(0, 1), x.flatten()).backward())
        full = full or flops
        print(f"| {name} | {flops / full:.2f} | {sum(sizes[n] for n in thawed) / sum(sizes.values()):.3f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", choices=("on", "off"), help=argparse.SUPPRESS)
    parser.add_argument("--shares", action="store_true", help="print shares of a step's operations and end")
    parser.add_argument("--savers", action="store_true", help="measure what saves memory and end")
    parser.add_argument("--saver", choices=SAVERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.shares:
        shares()
        sys.exit()
    if given.steps:
        print(*steps(given.steps))
        sys.exit()
    if given.saver:
        print(
            *by_frostline(decoder((LENGTH,), WORDS, *SHAPES["micro"]), tokens(WORDS, 3), WORDS, **SAVERS[given.saver])
        )
        sys.exit()
    result: dict[str, Any] = (
        {"savers": savers()} if given.savers else {"memory": memory(), "speed": speed(given.rounds)}
    )
    result["environment"] = environment(torch.device("cpu"))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
