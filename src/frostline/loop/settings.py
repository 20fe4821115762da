"""How to train: the section `trainer`, for the schema of the command line and for the loop alike. Imports no torch."""

import math
import os
from dataclasses import dataclass, field

from frostline.core.checks import UsageError, in_range, one_of

AUTO = ("auto", "on", "off")
CHOICES = {
    "channels_last": AUTO,
    "kernels": AUTO,
    "fused": AUTO,
    "loss_in_pieces": AUTO,
    "prefix_cache": AUTO,
    "compile": (*AUTO, "reduce-overhead"),
    "precision": ("float32", "tf32", "bfloat16"),
    "prefix_cache_dtype": ("float32", "bfloat16", "float16"),
    "optimizer_state": ("reset", "keep"),
    "evaluate_on": ("test", "validation"),
}


@dataclass
class TrainerConfig:
    """How to train; conf/trainer/default.yaml says what each is."""

    epochs: int = 5
    batch_size: int = 64
    micro_batch_size: int | None = None
    max_steps: int | None = None
    seeds: list[int] | None = None
    eval_batch_size: int | None = None
    device: str = "auto"
    threads: int | None = None
    channels_last: str = "auto"
    kernels: str = "auto"
    compile: str = "auto"
    precision: str = "float32"
    fused: str = "auto"
    loss_in_pieces: str = "auto"
    activation_checkpointing: bool = False
    optimizer_state: str = "reset"
    evaluate_on: str = "test"
    evaluate_every: int | None = None
    evaluate_samples: int | None = None
    output_drift: int | None = None
    answers: int | None = None
    harness: list[str] | None = None
    harness_limit: int | None = None
    harness_shots: int | None = None
    harness_path: str | None = None
    sam: float = 0.0
    clip: float | None = None
    checkpoint_every_s: float = 60.0
    augment: list[str] = field(default_factory=list)
    prefix_cache: str = "auto"
    prefix_cache_gib: float = 2.0
    prefix_cache_dtype: str = "float32"
    prefix_cache_views: int = 0

    def check(self) -> None:
        """Raise UsageError for a value that cannot be."""
        for name in (
            "epochs",
            "batch_size",
            "micro_batch_size",
            "max_steps",
            "eval_batch_size",
            "threads",
            "evaluate_every",
            "evaluate_samples",
            "output_drift",
            "answers",
            "harness_limit",
        ):
            most = 4 * max(16, os.cpu_count() or 1) if name == "threads" else math.inf  # far more crash in OpenMP
            in_range(f"trainer.{name}", getattr(self, name), 1, most, whole=True)
        in_range("trainer.harness_shots", self.harness_shots, 0, whole=True)
        for name in ("checkpoint_every_s", "prefix_cache_gib", "prefix_cache_views", "sam"):
            in_range(f"trainer.{name}", getattr(self, name), 0)
        if self.evaluate_samples is not None and self.evaluate_every is None:
            raise UsageError(
                f"trainer.evaluate_samples={self.evaluate_samples} is for evaluations within tasks; at their ends all data "
                "count. Expected trainer.evaluate_every=STEPS beside it, or stream.test_samples_per_class."
            )
        in_range("trainer.clip", self.clip, 0, above=True)
        for name, choices in CHOICES.items():
            one_of(f"trainer.{name}", getattr(self, name), choices)
        if self.seeds is not None:
            for seed in self.seeds:
                in_range("trainer.seeds", seed, 0, whole=True)
            if not self.seeds or len(set(self.seeds)) < len(self.seeds):
                raise UsageError(
                    f"trainer.seeds={list(self.seeds)}: expected different seeds, such as trainer.seeds=[0,1,2,3]."
                )
