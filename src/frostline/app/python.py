"""From Python: a run without a command line, and what it leaves as data frames."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from frostline.app.config import compose_config
from frostline.app.job import build
from frostline.core.checks import UsageError, nearest
from frostline.core.rng import derive
from frostline.core.scope import Scope
from frostline.core.sources import MemorySource
from frostline.core.types import Batch, Task, TaskStream
from frostline.costs import CostMeter, Prices, StepCosts, TaskCosts
from frostline.loop.precision import set_precision
from frostline.loop.pricing import task_costs
from frostline.loop.run import Moment, Observer, Run
from frostline.loop.schedules import Schedule
from frostline.loop.settings import TrainerConfig
from frostline.loop.training import run_stream
from frostline.records import results
from frostline.records.writer import contents_of
from frostline.selectors.base import Selector
from frostline.speed.fast import Fast
from frostline.speed.layouts import with_fused, with_kernels, with_layout
from frostline.speed.prefix import check_settings
from frostline.strategies.base import Strategy
from frostline.strategies.chain import Chain
from frostline.streams.own import from_tasks

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

OPTIMIZERS: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@dataclass
class Result:
    """What a run came to. content: what a run folder's result.json holds; model: the trained model."""

    content: dict[str, Any]
    model: nn.Module

    @property
    def accuracy(self) -> "pandas.DataFrame":
        """Accuracy on each task (columns) after each task (rows, the first the untrained model); NaN where not evaluated."""
        return self._matrix("accuracy")

    @property
    def loss(self) -> "pandas.DataFrame":
        """The mean loss, likewise."""
        return self._matrix("loss")

    @property
    def metrics(self) -> "pandas.Series":
        """Every metric by its name; NaN where it is not defined."""
        import pandas

        return pandas.Series(self.content["metrics"], name="metric", dtype=float)

    @property
    def ledger(self) -> "pandas.DataFrame":
        """The bill, a row for each phase of each task."""
        import pandas

        return pandas.DataFrame(self.content["ledger"])

    @property
    def sentence(self) -> str:
        """What was learned, kept and paid, in words."""
        from frostline.report.outcome import as_sentence, sentence

        return as_sentence(sentence([self.content]))

    def plot(self) -> "Figure":
        """Return mean accuracy on the tasks so far against what learning had cost by then."""
        from frostline.report.figures import accuracy_against_cost

        return accuracy_against_cost(self.content)

    def plot_matrix(self) -> "Figure":
        """Return the accuracy matrix as a heat map."""
        from frostline.report.figures import accuracy_matrix

        return accuracy_matrix(self.content)

    def save(self, folder: str | Path) -> None:
        """Write result.json and its spreadsheets, which `frostline compare` reads."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        results.write(Path(folder), self.content)

    def _matrix(self, name: str) -> "pandas.DataFrame":
        import pandas

        tasks = self.content["stream"]["tasks"]
        return pandas.DataFrame(self.content[name], index=["untrained", *tasks], columns=tasks, dtype=float)

    def __repr__(self) -> str:
        return f"<{self.content['stream']['name']}: {self.sentence}>"


class _Bar(Observer):
    """A bar over the tasks: tqdm's, in a notebook its widget where there are widgets."""

    def __init__(self) -> None:
        self._bar: Any = None

    def started(self, run: Run) -> None:
        self._bar = _tqdm()(
            total=len(run.stream), unit="task", bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
        )

    def progress(self, run: Run, moment: Moment) -> None:
        self._bar.n = round(moment.task + moment.done, 2)
        self._bar.set_postfix_str(f"loss {moment.loss:.3f}")

    def task_done(self, run: Run, index: int) -> None:
        row = [value for value in run.progress.accuracy[-1][: index + 1] if value is not None]
        self._bar.n = index + 1
        if row:
            self._bar.set_postfix_str(f"accuracy so far {sum(row) / len(row):.3f}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _tqdm() -> Any:
    from importlib.util import find_spec

    if find_spec("ipywidgets") is not None:
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    return tqdm


def run(
    model: nn.Module,
    stream: TaskStream | str | Sequence[Any],
    strategy: str | Strategy | Sequence[str | Strategy] = "finetune",
    selector: str | Selector | None = None,
    *,
    optimizer: str | Callable[..., torch.optim.Optimizer] = "sgd",
    lr: float = 0.05,
    schedule: str | Schedule = "constant",
    seed: int = 0,
    price_per_hour: float = 0.0,
    reference_steps: int = 3,
    progress: bool = True,
    **trainer: Any,
) -> Result:
    """Teach a copy of the model one task after another; return what it learned, forgot and cost.

    model: any nn.Module from samples [B, ...] to logits [B, C], on the device where it is to learn; the original stays as
    it is. stream: a TaskStream, the name of one of frostline's, or a list of (train, test) as streams.from_tasks takes it.
    strategy, selector: a name, with the settings of its YAML, or an object, of which a copy is used; several strategies are
    a chain; without a selector everything trains. optimizer: a name, with `lr`, or what makes one of a list of parameters.
    trainer: settings of the section trainer, such as epochs=5, batch_size=64. Nothing is written; Result.save does. UsageError
    for what cannot be.
    """
    settings = TrainerConfig(**{"compile": "off", "kernels": "off", **_known(trainer)})
    settings.check()
    _check_model(model)
    device = next(model.parameters()).device
    set_precision(settings.precision, device)
    stream = _stream(stream, seed, device)
    chosen = list(strategy) if isinstance(strategy, list | tuple) else [strategy]
    members = [member for each in chosen for member in _strategies(each, seed)]
    if selector is None:  # `partial` brings one of its own
        selector = "last_k" if "partial" in chosen else "everything"
    method = members[0] if len(members) == 1 else Chain(members)
    rule = _object(selector, "selector", seed)
    pace = _object(schedule, "schedule", seed)
    net = with_kernels(with_layout(copy.deepcopy(model), settings.channels_last), settings.kernels, device)
    rule.prepare(net)
    check_settings(settings, net)
    method.check(net, stream)
    stream = _fitting(net, stream)
    step = with_fused(_optimizer(optimizer, lr), settings.fused)
    bar = [_Bar()] if progress else []
    meter = CostMeter(device, Prices(price_per_hour))
    this = Run(
        net, stream, method, rule, step, meter, settings, Fast(settings), seed, pace, reference_steps, None, bar
    )  # fmt: skip
    rule.check(net, task_costs(this, stream[0]))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive(seed, "training"))
        try:
            run_stream(this)
        finally:
            for observer in bar:
                observer.close()
    config = {
        "seed": seed,
        "strategy": {_name(member): None for member in members},
        "selector": {"_target_": _name(rule)},
        "model": {"_target_": type(model).__name__},
        "optimizer": {"_target_": getattr(step, "func", step).__name__, "lr": lr},
        "stream": {"_target_": stream.name},
        "trainer": vars(settings),
    }
    return Result(contents_of(this, config, "complete"), net)


def select(
    model: nn.Module,
    selector: str | Selector,
    data: Any,
    *,
    epochs: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    **task: Any,
) -> Scope:
    """Return what a rule would thaw for these data, as a scope for a loop of one's own: `with scope.thawed(): ...`.

    data: (x, y), on the model's device. task: further fields of core.types.Task, such as objective=.
    """
    x, y = data
    batch = Batch(x, y, torch.zeros(len(y), dtype=torch.int64, device=y.device), torch.arange(len(y), device=y.device))
    source = MemorySource(batch)
    this = Task(0, "own", (), source, source, **task)
    rule = _object(selector, "selector", seed)
    rule.warmup_tasks = 0
    rule.prepare(model)
    costs = TaskCosts(lambda: StepCosts.trace(model, x[:batch_size]), epochs, len(y))
    rule.check(model, costs)
    return Scope(model, rule(model, this, costs))


def _known(trainer: dict[str, Any]) -> dict[str, Any]:
    known = list(vars(TrainerConfig()))
    for key in trainer:
        if key not in known or key in ("seeds", "device", "threads"):
            raise UsageError(f"run({key}=...): there is no such setting.{nearest(key, known)}")
    return trainer


def _stream(stream: Any, seed: int, device: torch.device) -> TaskStream:
    if isinstance(stream, str):
        return build(compose_config(f"stream={stream}", f"seed={seed}").stream, seed=seed, device=str(device))
    if isinstance(stream, TaskStream):
        return stream
    return from_tasks(stream, device=device)


def _strategies(given: Any, seed: int) -> list[Strategy]:
    if isinstance(given, Strategy):
        return [copy.deepcopy(given)]
    if not isinstance(given, str):
        raise UsageError(f"strategy: expected a name or a Strategy, not {type(given).__name__}.")
    return [build(node) for node in compose_config(f"strategy={given}", f"seed={seed}").strategy.values()]


def _object(given: Any, group: str, seed: int) -> Any:
    return (
        build(compose_config(f"{group}={given}", f"seed={seed}")[group])
        if isinstance(given, str)
        else copy.deepcopy(given)
    )


def _optimizer(given: Any, lr: float) -> Any:
    if isinstance(given, type):
        return partial(given, lr=lr)
    if callable(given):
        return given
    if given not in OPTIMIZERS:
        raise UsageError(f"optimizer={given!r}: expected one of {', '.join(OPTIMIZERS)}.{nearest(given, OPTIMIZERS)}")
    return partial(OPTIMIZERS[given], lr=lr)


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module) or next(model.parameters(), None) is None:
        raise UsageError(f"model: expected an nn.Module with parameters, not {model!r:.60}.")
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    if frozen:
        raise UsageError(
            f"{frozen[0]} has requires_grad=False: what trains is for the selector to say. Thaw it, and use a selector such as "
            "selector='last_k', or Pattern(include=[...]) for names of your own."
        )


def _fitting(model: nn.Module, stream: TaskStream) -> TaskStream:
    """Return the stream with as many classes as the model has logits; refuse a model that cannot answer for its samples."""
    batch = next(iter(stream[0].train.batches(2, torch.arange(min(2, len(stream[0].train))))))
    device = next(model.parameters()).device
    if batch.x.device != device:
        raise UsageError(f"The model is on {device} and the data on {batch.x.device}. Expected both on one device.")
    try:
        with torch.no_grad(), torch.random.fork_rng():
            was = model.training
            logits = model.eval()(batch.x)
            model.train(was)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{type(model).__name__} cannot take samples of shape {list(stream.shape)} ({batch.x.dtype}): {reason}"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape[-1] < stream.classes:
        found = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UsageError(
            f"{type(model).__name__} returns {found} for two samples; expected logits [2, ..., {stream.classes}] as a tensor, "
            "one for each class of the stream."
        )
    more = logits.shape[-1] - stream.classes
    if not more or stream.tasks[0].visible is None:
        return stream
    tasks = tuple(
        replace(task, visible=None if task.visible is None else nn.functional.pad(task.visible, (0, more)))
        for task in stream.tasks
    )
    return replace(stream, tasks=tasks, classes=logits.shape[-1])


def _name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__name__}".rpartition(".")[2].lower()
