"""The answer of a run in one sentence: what was learned, what was kept, what it cost beside full fine-tuning."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from frostline.core import metrics


def outcome(content: dict[str, Any]) -> dict[str, float | None]:
    """Return what a run learned, kept and cost, None where its rows do not say.

    before, after: mean accuracy on a task untrained and right after learning it; learned: the difference. was, kept: mean
    accuracy on all tasks but the last, right after each was learned and at the end. flops, seconds: shares of what plain
    full fine-tuning of each task's own data takes.
    """
    R = metrics.matrix(content["accuracy"])
    diagonal, untrained, last = np.diagonal(R[1:]), R[0], R[-1]
    full = content["full_finetuning"]
    found = {
        "before": untrained.mean(),
        "after": diagonal.mean(),
        "learned": (diagonal - untrained).mean(),
        "was": diagonal[:-1].mean() if len(diagonal) > 1 else np.nan,
        "kept": last[:-1].mean() if len(diagonal) > 1 else np.nan,
    }
    shares = {
        kind: full.get(f"plain_{kind}_ratio", full[f"{kind}_ratio"])  # results of schema 1 have the latter only
        for kind in ("flops", "seconds")
    }
    return {name: None if np.isnan(value) else float(value) for name, value in found.items()} | shares


def sentence(contents: Sequence[dict[str, Any]]) -> str:
    """Return the outcome in words, the mean over several runs of one configuration; empty where too little is known."""
    outcomes = [outcome(content) for content in contents]

    def mean(name: str) -> float | None:
        values = [value for each in outcomes if (value := each[name]) is not None]
        return float(np.mean(values)) if values else None

    parts = []
    learned, before, after, was, kept = (mean(name) for name in ("learned", "before", "after", "was", "kept"))
    if learned is not None:
        parts.append(f"learned {learned:+.2f} ({before:.2f} to {after:.2f})")
    if kept is not None and was is not None:
        parts.append(f"kept {kept:.2f} of {was:.2f} on earlier tasks")
    flops, seconds = mean("flops"), mean("seconds")
    if flops is not None:
        time = "" if seconds is None else f" and {100 * seconds:.0f} % of its time"
        parts.append(f"at {100 * flops:.0f} % of full fine-tuning's operations{time}")
    return ", ".join(parts)


def as_sentence(text: str) -> str:
    """Return it with a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}." if text else ""
