"""How long a user waits before a run begins, and what of it is torch.

    python benchmarks/speed/start.py

Each line is the median of processes started anew, interleaved. A run begins when it prints its first line: the data are
read, the model is built, and what follows is the first evaluation and the first step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from frostline.records.environment import environment

ROOT = Path(__file__).parents[2]
RUN = (str(ROOT / "run.py"), "stream=split_digits", "model=mlp", "figures=[]")
PROCESSES: dict[str, tuple[str, ...]] = {
    "`import torch`": ("-c", "import torch; print()"),
    "`import torch, torch._dynamo`, which every optimizer imports": ("-c", "import torch, torch._dynamo; print()"),
    "`run.py --help`": (str(ROOT / "run.py"), "--help"),
    "digits, to the beginning": (*RUN, "tracking=none"),
}


def first_line(arguments: tuple[str, ...]) -> float:
    """Return the seconds until a process prints its first line."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-u", *arguments], cwd=folder, stdout=subprocess.PIPE)
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - begin
        process.communicate()
    if not line or process.returncode:
        raise RuntimeError(f"{arguments}: nothing was printed, or exit code {process.returncode}")
    return seconds


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "start.json")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in PROCESSES}
    for number in range(-1, options.rounds):  # round -1 fills the file caches
        for name, arguments in PROCESSES.items():
            taken = first_line(arguments)
            if number >= 0:
                seconds[name].append(taken)
    print("| process | seconds |\n|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {statistics.median(values):.1f} |")
    content = {"rounds": options.rounds, "environment": environment(torch.device("cpu")), "seconds": seconds}
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
