"""Avalanche's loops: our selector, strategies, bill and metrics as one of its plugins."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from frostline.core import metrics
from frostline.core.checks import UsageError
from frostline.core.loaders import LoaderSource
from frostline.core.torchvision_schemas import torchvision
from frostline.core.types import Batch, Task
from frostline.integrations.companion import Companion, check_unwrapped
from frostline.integrations.reporting import Reporting
from frostline.streams.avalanche import Experience

torchvision()  # avalanche imports it
from avalanche.benchmarks import OnlineCLExperience  # noqa: E402
from avalanche.core import SupervisedPlugin  # noqa: E402
from avalanche.models import MultiTaskModule  # noqa: E402


class FrostlinePlugin(Reporting, SupervisedPlugin):
    """Freeze all but what a rule chooses, keep what was learned, measure what it costs and what is forgotten.

    selector, strategy: a name, with the settings of its YAML, or an object; without a selector all trains that is not frozen
    yet; several strategies are a chain. Methods that add to the loss or to the batch, or change gradients; what decides over
    the loop is refused. One plugin goes with a strategy of Avalanche's through all of its experiences. Every
    `strategy.eval` of a test stream is a row of the accuracy matrix: before the first experience, and after each.

    Operations are those of forward and backward passes, with what other plugins add to the loss or to the batch, counted while
    the first one of each shape is made.
    """

    def __init__(self, selector: Any = None, strategy: Any = "finetune", *, price_per_hour: float = 0.0, seed: int = 0):
        super().__init__()
        self.companion = Companion(selector, strategy, seed, price_per_hour)
        self.matrix: list[list[float | None]] = []
        self._batch: Any = None
        self._kind: tuple[Any, ...] = ()
        self._patched: Any = None  # Avalanche's strategy, while it learns an experience

    @property
    def metrics(self) -> dict[str, float | None]:
        """Every metric that the evaluations so far define, by name; see core.metrics."""
        tasks = len(self.matrix[0]) if self.matrix else 0
        if len(self.matrix) > tasks + 1:  # experiences were learned again
            return {}
        rows = [*self.matrix, *[[None] * tasks] * (tasks + 1 - len(self.matrix))]
        return metrics.all_metrics(metrics.matrix(rows)) if tasks else {}

    def result(self) -> dict[str, Any]:
        """Return what trained, what it cost and what it forgot, as plain values."""
        return {**super().result(), "accuracy": self.matrix, "metrics": self.metrics}

    def save(self, file: str | Path) -> None:
        """Write the result as JSON."""
        self.companion.save(Path(file), accuracy=self.matrix, metrics=self.metrics)

    def before_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Take the model, before Avalanche collects its parameters."""
        check_unwrapped(strategy.model)
        others = [plugin for plugin in strategy.plugins if isinstance(plugin, FrostlinePlugin)]
        if len(others) > 1:
            raise UsageError("This strategy has two FrostlinePlugins: expected one.")
        if isinstance(strategy.model, MultiTaskModule) and not self.companion.plain:
            raise UsageError(
                f"{type(strategy.model).__name__} wants to know each sample's task, which frostline's methods do not tell it. "
                "Expected strategy='finetune', or a model of one head."
            )
        self._let_go()  # of an experience that an error ended
        self.companion.claim(strategy.model)
        self.companion.join(strategy.model)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Choose what trains; everything else is frozen from here on."""
        if isinstance(strategy.experience, OnlineCLExperience):
            raise UsageError(
                "An online stream hands an experience out in pieces, and what a task is would be lost. Expected whole "
                "experiences; frostline.streams.from_avalanche(benchmark, online=True) learns each sample once."
            )
        data = Experience(strategy.experience)
        index = self.companion.index
        source = LoaderSource(cast(Dataset, data), data.targets, torch.arange(len(data)), index, device=strategy.device)
        self.companion.begin(
            Task(index, f"{index}", tuple(data.targets.unique().tolist()), source, source),
            strategy.optimizer,
            shape=data[0][0].shape,
            classes=1 + int(data.targets.max()),
            epochs=strategy.train_epochs,
            size=strategy.train_mb_size,
            steps=strategy.train_epochs * len(strategy.dataloader),
        )
        self._number = 0
        self._patched, forward, backward = strategy, strategy.forward, strategy.backward

        def counted_forward() -> Tensor:
            if not strategy.is_training:
                return forward()
            with self.companion.counted(("forward", *self._kind), len(strategy.mb_x)):
                return forward()

        def counted_backward() -> None:
            with self.companion.counted(("backward", *self._kind)):
                backward()

        strategy.forward, strategy.backward = counted_forward, counted_backward

    def before_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Let the method add samples to the batch."""
        x, y, task = strategy.mb_x, strategy.mb_y, strategy.mb_task_id
        batch = Batch(x, y, task, torch.arange(len(y), device=y.device))
        self._batch = self.companion.mix(batch, self._number)
        if len(self._batch) > len(batch):
            strategy.mbatch = [self._batch.x, self._batch.y, *strategy.mbatch[2:-1], self._batch.task]
        self._kind = (*self._batch.x.shape, self.companion.strategy.work(len(batch)))

    def before_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Add what the method adds to the loss."""
        with self.companion.counted(("penalty", *self._kind)):
            penalty = self.companion.penalty(self._batch, strategy.mb_output)
        if penalty is not None:
            strategy.loss += penalty

    def before_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Gradients are there, those of other plugins too."""
        self.companion.project()

    def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """An update was made, and its gradients are still there."""
        self.companion.stepped()
        self._number += 1

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Remember what must not be lost, and unfreeze."""
        self._let_go(ended=True)

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Charge what comes to `evaluate`."""
        if self.companion.model is None:  # before any training
            self.before_training(strategy)
        self.companion.enter("evaluate")
        self._right: dict[int, list[Tensor]] = {}

    def before_eval_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Put the pass on the bill, counted apart the first time that its shape comes."""
        self.companion.price(("evaluate", *strategy.mb_x.shape), len(strategy.mb_x), strategy.forward)

    def after_eval_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Note which answers are right."""
        if strategy.experience.origin_stream.name.startswith("test"):
            right = strategy.mb_output.argmax(1) == strategy.mb_y
            self._right.setdefault(strategy.experience.current_experience, []).append(right)

    def after_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Make the row; go on with training, where that is what was interrupted."""
        learning = self.companion.learning
        self.companion.enter("train" if learning else None)
        if not self._right:
            return
        tasks = len(strategy.experience.origin_stream)
        row = self.companion.index + learning  # in the middle: what stands until a later one
        empty: list[list[float | None]] = [[None] * tasks for _ in range(row + 1 - len(self.matrix))]
        self.matrix += empty
        for task, parts in self._right.items():
            right = torch.cat(parts)
            self.matrix[row][task] = int(right.sum()) / len(right)

    def _let_go(self, ended: bool = False) -> None:
        if self._patched is not None:
            del self._patched.forward, self._patched.backward  # what the class has shows again
            self._patched = None
        self.companion.end() if ended else self.companion.abandon()
