"""Lightning's Trainer: our selector, strategies and bill as a callback."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from frostline.core.checks import UsageError, one_of
from frostline.core.objectives import OBJECTIVES, Objective
from frostline.core.torchvision_schemas import torchvision
from frostline.core.types import Suite, Task
from frostline.integrations.companion import Companion, check_unwrapped
from frostline.integrations.data import DataSet
from frostline.integrations.reporting import Reporting

torchvision()  # torchmetrics imports it
try:
    from lightning.pytorch import Callback, LightningModule, Trainer

    from frostline.integrations.lightning_module import Logits
except ImportError as error:
    raise UsageError("FrostlineCallback needs Lightning: pip install 'frostline[lightning]'.") from error

STEPS = ("training_step", "validation_step", "backward")  # of a LightningModule, put on the bill while it trains


class FrostlineCallback(Reporting, Callback):
    """Freeze all but what a rule chooses, keep what was learned, measure what it costs and what is forgotten.

    selector, strategy: a name, with the settings of its YAML, or an object; without a selector all trains that is not frozen
    yet; several strategies are a chain. Methods that add to the loss or to the batch, or change gradients; what decides over
    the loop is refused. One callback goes with a LightningModule through all of its tasks: each `fit` is the next. What it
    chose and remembers is in Lightning's checkpoints, and is there again after a resume; frozen norms stand still throughout.
    pair: the inputs and the targets in a batch, by place or by key. network: the part that makes logits of inputs, where
    that is not `forward` or the only part with weights. held_out: {name: data set or DataLoader}; the rise of its mean loss
    is `forgetting`. file: where the result is written after each task, default_root_dir/frostline.json if None.

    Operations are those of training_step, backward and validation_step, counted while the first one of each shape is made.
    One process, automatic optimization and no fp16 scaling.
    """

    def __init__(
        self,
        selector: Any = None,
        strategy: Any = "finetune",
        *,
        pair: tuple[Any, Any] = (0, 1),
        network: str | None = None,
        objective: str | Objective = "classification",
        held_out: Mapping[str, Any] | None = None,
        file: str | Path | None = None,
        price_per_hour: float = 0.0,
        seed: int = 0,
    ):
        if isinstance(objective, str):
            one_of("objective", objective, OBJECTIVES)
        self.objective: Objective = OBJECTIVES[objective]() if isinstance(objective, str) else objective
        self.companion = Companion(selector, strategy, seed, price_per_hour, "module.")
        self.pair, self.network, self.held_out, self.file = pair, network, dict(held_out or {}), file
        self.net: Logits | None = None
        self._open = ExitStack()  # what is patched while a task is learned
        self._said: Tensor | None = None  # the logits of the batch
        self._batch: Any = None
        self._kind: tuple[Any, ...] = ()
        self._skipped = False  # the step gave no loss
        self._restored = False  # from a checkpoint, by this fit

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs, for Lightning's checkpoint."""
        return self.companion.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go back to where a checkpoint was taken."""
        self.companion.load_state_dict(state_dict)
        self._restored = True

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the model, before an optimizer is made for it."""
        if stage != "fit":
            return
        self._let_go()  # of a training that an error ended
        _check(trainer, pl_module, self.companion)
        check_unwrapped(pl_module)
        self.companion.claim(pl_module)
        if self.net is None:
            self.net = Logits(pl_module, self.network, self.pair)
        self.companion.join(self.net)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose what trains; everything else is frozen from here on."""
        assert self.net is not None
        self.companion.join(self.net)  # on its device by now
        loader: Any = trainer.train_dataloader
        if not hasattr(loader, "dataset"):
            raise UsageError(f"The Trainer learns from {type(loader).__name__}: expected one DataLoader.")
        self.suites = {
            name: Suite(name, self._data(held, loader), objective=self.objective)
            for name, held in self.held_out.items()
        }
        if not self.companion.held_out:
            self.companion.evaluate(self.suites, loader.batch_size or 1)
        data, index = self._data(loader, loader), self.companion.index
        shape, classes = (), 1
        if not self.companion.plain:
            shape, classes = self.net.shape_and_classes(next(iter(data.batches(1))), self.objective)
        self.companion.begin(
            Task(index, f"{index}", (), data, data, objective=self.objective),
            trainer.optimizers[0],
            shape=shape,
            classes=classes,
            epochs=max(1, trainer.max_epochs or 1),
            size=loader.batch_size or 1,
            steps=int(min(trainer.estimated_stepping_batches, 2**62)),
        )
        for name in STEPS:
            setattr(pl_module, name, getattr(self, f"_{name}")(getattr(pl_module, name)))
            self._open.callback(delattr, pl_module, name)  # what the class has shows again
        self._open.callback(self.net.part().register_forward_hook(self._note).remove)
        self._steps, self._trainer = trainer.global_step, trainer

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Charge what comes to `evaluate`; what Lightning tries before it trains is on nobody's bill."""
        if self.companion.learning:
            self.companion.enter("evaluate")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with training."""
        if self.companion.learning:
            self.companion.enter("train")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Gradients are there, not clipped yet."""
        if not self._skipped:
            self.companion.project()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *others: Any) -> None:
        """If an update was made, its gradients are still there."""
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            if not self._skipped:
                self.companion.stepped()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember, unfreeze, measure, and write what came of it."""
        self._open.close()
        self.companion.end()
        self.companion.evaluate(self.suites, cast(Any, trainer.train_dataloader).batch_size or 1)
        file = Path(self.file or Path(trainer.default_root_dir) / "frostline.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        self.companion.save(file)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End a task whose checkpoint was taken after its last step: Lightning has nothing left to train."""
        if self._restored and len(self.companion.names) > self.companion.index and trainer.train_dataloader is not None:
            self.on_train_start(trainer, pl_module)
            self.on_train_end(trainer, pl_module)
        self._restored = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Unfreeze: the task was not learned."""
        self._let_go()

    def _let_go(self) -> None:
        self._open.close()
        self.companion.abandon()

    def _data(self, given: Any, loader: Any) -> DataSet:
        assert self.net is not None
        data = getattr(given, "dataset", given)
        return DataSet(data, getattr(given, "collate_fn", loader.collate_fn), self.net.batch, self.net)

    def _training_step(self, step: Any) -> Any:
        def counted(batch: Any, *others: Any, **more: Any) -> Any:
            assert self.net is not None
            companion, self._said = self.companion, None
            work = None
            if companion.plain:
                companion.hold()
            else:
                own = self.net.batch(batch)
                work = companion.strategy.work(len(own))
                self._batch = companion.mix(own, self._trainer.global_step)
                if len(self._batch) > len(own):
                    batch = self.net.inputs(batch, self._batch)
            self._kind = (*_shapes(batch), work)
            with companion.counted(("train", *self._kind), _size(batch)):
                output = step(batch, *others, **more)
                self._skipped = output is None
                if not companion.plain and not self._skipped:
                    output = self._added(output)
            if self._skipped:  # there is no backward pass, and the forward one may be half of itself
                companion.forget(("train", *self._kind))
            return output

        return counted

    def _added(self, output: Any) -> Any:
        """Return what a step gave with what the method adds to its loss."""
        loss = output["loss"] if isinstance(output, Mapping) else output
        if self._said is None and self.companion.reads_logits():
            raise UsageError(
                "training_step does not call what makes logits once on the batch: expected self(x), or network=, the name of "
                "the part that it calls."
            )
        penalty = self.companion.penalty(self._batch, loss.detach() if self._said is None else self._said.float())
        if penalty is None:
            return output
        return {**output, "loss": loss + penalty} if isinstance(output, Mapping) else loss + penalty

    def _validation_step(self, step: Any) -> Any:
        def counted(batch: Any, *others: Any, **more: Any) -> Any:
            with self.companion.counted(("evaluate", *_shapes(batch)), _size(batch)):
                return step(batch, *others, **more)

        return counted

    def _backward(self, backward: Any) -> Any:
        def counted(*args: Any, **more: Any) -> None:
            with self.companion.counted(("backward", *self._kind)):
                backward(*args, **more)

        return counted

    def _note(self, module: nn.Module, args: Any, output: Any) -> None:
        if module.training and self._said is None and isinstance(output, Tensor):
            self._said = output


def _shapes(batch: Any) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]


def _size(batch: Any) -> int:
    return next((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim), 0)


def _check(trainer: Any, module: Any, companion: Companion) -> None:
    """Refuse a Trainer or a module that the callback cannot serve."""
    if getattr(module, "_compiler_ctx", None) is not None:
        raise UsageError("The model is wrapped already, by torch.compile. Expected the LightningModule itself.")
    if trainer.world_size > 1:
        raise UsageError(f"The Trainer has {trainer.world_size} processes: expected one, devices=1.")
    if not module.automatic_optimization:
        raise UsageError("automatic_optimization=False: frostline stands between a loss and its update. Expected True.")
    if trainer.precision == "16-mixed" and not companion.plain:
        raise UsageError(
            "precision='16-mixed' scales gradients, and what is added to them would be scaled too. Expected bf16-mixed."
        )
    if trainer.accumulate_grad_batches > 1 and companion.strategy.uses("augment"):
        raise UsageError(
            f"accumulate_grad_batches={trainer.accumulate_grad_batches}: replay mixes into whole batches. Expected 1 and a "
            "larger batch_size."
        )
