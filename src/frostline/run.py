"""Run: all that a run is made of, how far it has come, and who watches it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frostline.augmentation import Augmentation
from frostline.checks import UsageError, in_range, one_of
from frostline.costs import CostMeter, Reference
from frostline.features import Features
from frostline.precision import PRECISIONS, casting
from frostline.selectors import Change, Selector
from frostline.strategies import Strategy
from frostline.types import TaskStream

CACHE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Diverged(UsageError):
    """The loss is no longer a finite number, in the run of this folder."""

    def __init__(self, message: str, folder: Path | None = None):
        super().__init__(message)
        self.folder = folder


@dataclass(frozen=True)
class Settings:
    """How to train: the `trainer` section without the device."""

    epochs: int = 1
    batch_size: int = 128
    eval_batch_size: int | None = None
    augment: Sequence[str] = ()
    channels_last: str = "auto"
    kernels: str = "auto"
    compile: str = "off"
    precision: str = "float32"
    fused: str = "auto"
    optimizer_state: str = "reset"
    evaluate_on: str = "test"
    checkpoint_every_s: float = 60.0
    prefix_cache: str = "off"
    prefix_cache_gib: float = 2.0
    prefix_cache_dtype: str = "float32"
    prefix_cache_views: int = 0
    reference_steps: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_batch_size"):
            in_range(f"trainer.{name}", getattr(self, name), 1)
        for name in ("checkpoint_every_s", "prefix_cache_gib", "prefix_cache_views"):
            in_range(f"trainer.{name}", getattr(self, name), 0)
        in_range("cost.reference_steps", self.reference_steps, 0)
        for name in ("channels_last", "kernels", "fused", "prefix_cache"):
            one_of(f"trainer.{name}", getattr(self, name), ("auto", "on", "off"))
        one_of("trainer.compile", self.compile, ("auto", "on", "off", "reduce-overhead"))
        one_of("trainer.precision", self.precision, PRECISIONS)
        one_of("trainer.optimizer_state", self.optimizer_state, ("reset", "keep"))
        one_of("trainer.evaluate_on", self.evaluate_on, ("test", "validation"))
        one_of("trainer.prefix_cache_dtype", self.prefix_cache_dtype, CACHE_DTYPES)
        Augmentation(self.augment)


@dataclass
class Progress:
    """Where the loop is, for whoever watches."""

    task: int
    epoch: int
    step: int
    steps: int
    loss: float
    samples_per_second: float


class Observer:
    """Somebody who watches a run; every method may stay as it is."""

    def started(self, run: "Run") -> None:
        """The run begins or goes on."""

    def progress(self, run: "Run", progress: Progress) -> None:
        """Called about twice a second while training."""

    def task_done(self, run: "Run", index: int) -> None:
        """Task `index` is learned and evaluated."""

    def finished(self, content: dict[str, Any], folder: Path) -> None:
        """The run is complete; `content` is that of result.json, and the figures are in folder/figures."""

    def close(self) -> None:
        """The run is over, well or not."""


@dataclass
class Run:
    """All that a run is made of, and how far it has come."""

    model: nn.Module
    stream: TaskStream
    strategy: Strategy
    selector: Selector
    optimizer: Callable[..., torch.optim.Optimizer]
    meter: CostMeter
    settings: Settings
    save: Callable[[dict[str, Any]], None] | None = None
    observers: Sequence[Observer] = ()
    folder: Path | None = (
        None  # its own; None: results stay in memory, and what does not fit there goes to a temporary file
    )

    accuracy: list[list[float | None]] = field(default_factory=list)
    task: int = 0
    step: int = 0  # of the open task, over all its epochs
    thawed: list[str] | None = None  # what the selector chose when the open task began; None between tasks
    change: Change | None = None  # what trains now
    seen: int = 0  # samples of all training steps so far
    reference: Reference = field(default_factory=Reference)  # what full fine-tuning takes for one of them
    state_bytes: list[dict[str, int]] = field(default_factory=list)  # gradients and optimizer state, a task each
    cached: list[int] = field(
        default_factory=lambda: [0, 1]
    )  # stages read from the prefix cache now, and in how many variants
    cache_notes: list[dict[str, Any]] = field(default_factory=list)  # what the prefix cache did, a task each
    open_optimizer: torch.optim.Optimizer | None = None
    optimizer_memory: dict[str, dict[str, Any]] = field(default_factory=dict)
    resumed_optimizer: dict[str, Any] | None = None
    step_flops: dict[tuple, tuple[int, int]] = field(default_factory=dict)
    evaluation_flops: dict[tuple, int] = field(default_factory=dict)
    compiled: Callable[..., Tensor] | None = None  # the model, where it was compiled
    features: Features = field(init=False)  # of test data, where the stages before them stand still
    draws: list[Tensor] | None = None  # this run's random state, CPU and GPU, where other runs use the generators too
    _drawing: bool = False

    def keep_draws(self) -> None:
        """Make the present state of torch's generators this run's own."""
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        self.draws = [torch.get_rng_state(), *cuda]

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Let torch's generators go on from where this run left them, where several runs share them."""
        if self.draws is None or self._drawing:
            yield
            return
        torch.set_rng_state(self.draws[0])
        if len(self.draws) > 1:
            torch.cuda.set_rng_state(self.draws[1], self.device)
        self._drawing = True
        try:
            yield
        finally:
            self._drawing = False
            self.keep_draws()

    def __post_init__(self) -> None:
        room = 0 if self.settings.prefix_cache == "off" else int(self.settings.prefix_cache_gib * 2**30)
        self.features = Features(room)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def eval_batch_size(self) -> int:
        """How many samples are evaluated at once: what fits a CPU's caches unless trainer.eval_batch_size says otherwise."""
        return self.settings.eval_batch_size or (128 if self.device.type == "cpu" else 1024)

    def casting(self) -> AbstractContextManager:
        """Return what this run's forward passes run in."""
        return casting(self.settings.precision, self.device)

    @property
    def full_flops(self) -> float:
        """What full fine-tuning of the same batches would have taken so far, in operations."""
        return self.seen * (self.reference.flops_per_sample or 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the run depends on."""
        change = self.change
        return {
            "position": [self.task, self.step],
            "thawed": self.thawed,
            "change": None if change is None else [sorted(change.names), dict(change.rates), change.until],
            "model": self.model.state_dict(),
            "optimizer": None if self.open_optimizer is None else self.open_optimizer.state_dict(),
            "optimizer_memory": self.optimizer_memory,
            "strategy": self.strategy.state_dict(),
            "selector": self.selector.state_dict(),
            "meter": self.meter.state_dict(),
            "accuracy": self.accuracy,
            "seen": self.seen,
            "reference": asdict(self.reference),
            "state_bytes": self.state_bytes,
            "cached": self.cached,
            "features": self.features.state_dict(),
            "cache_notes": self.cache_notes,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.task, self.step = state["position"]
        self.thawed = state["thawed"]
        if state["change"] is not None:
            names, rates, until = state["change"]
            self.change = Change(frozenset(names), rates, until)
        self.model.load_state_dict(state["model"])
        self.resumed_optimizer = state["optimizer"]
        self.optimizer_memory = state["optimizer_memory"]
        self.strategy.load_state_dict(to_device(state["strategy"], self.device))
        self.selector.load_state_dict(to_device(state["selector"], self.device))
        self.meter.load_state_dict(state["meter"])
        self.accuracy = state["accuracy"]
        self.seen = state["seen"]
        self.reference = Reference(**state["reference"])
        self.state_bytes = state["state_bytes"]
        self.features.load_state_dict(state["features"])
        self.cached, self.cache_notes = state["cached"], state["cache_notes"]
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)


def to_device(value: Any, device: torch.device) -> Any:
    """Return nested plain values with their tensors on `device`; random states stay where generators want them."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {k: v if str(k).endswith("generator") else to_device(v, device) for k, v in value.items()}
    return [to_device(v, device) for v in value] if isinstance(value, list) else value
