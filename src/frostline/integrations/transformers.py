"""Hugging Face's Trainer, and TRL's: our selector, strategies and bill as a callback."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError
from frostline.core.torchvision_schemas import torchvision
from frostline.core.types import Suite, Task
from frostline.integrations.companion import Companion, check_unwrapped
from frostline.integrations.data import DataSet
from frostline.integrations.reporting import Reporting
from frostline.selectors.roles import Role

torchvision()  # transformers imports it
try:
    from transformers import TrainerCallback

    from frostline.integrations.hugging_face import Logits
except ImportError as error:
    raise UsageError("FrostlineCallback needs transformers: pip install 'frostline[text]' accelerate.") from error

CHECKPOINT = "frostline.pt"  # in each checkpoint of the Trainer's
RESULT = "frostline.json"  # in its output_dir


class FrostlineCallback(Reporting, TrainerCallback):
    """Freeze all but what a rule chooses, keep what was learned, measure what it costs and what is forgotten.

    selector, strategy: a name, with the settings of its YAML, or an object; without a selector all trains that is not
    frozen yet, as PEFT's adapters are not; several strategies are a chain. Methods that add
    to the loss or to the batch: ewc, si, mas, lwf, l2_sp, replay and others, also those that change gradients, which they see
    as max_grad_norm leaves them; what decides over the loop is refused. A rule given by name trains a fine-tuned language
    model without its head. One callback goes with a model through all of its tasks: each call of train, of one Trainer or of
    several, is the next.
    held_out: {name: data set like the Trainer's own}; the rise of its mean loss per token is `forgetting`, as in PEFT's method
    comparison. After each task the Trainer's output_dir has frostline.json; each checkpoint has what a resume needs.

    Operations are counted by one more pass, off the bill, for each distinct shape of a batch. One process and no fp16 scaling.
    """

    def __init__(
        self,
        selector: Any = None,
        strategy: Any = "finetune",
        *,
        held_out: Mapping[str, Any] | None = None,
        price_per_hour: float = 0.0,
        seed: int = 0,
    ):
        self.companion = Companion(selector, strategy, seed, price_per_hour, "net.")
        self.held_out = dict(held_out or {})
        self._selector = selector
        self._length: int | None = None  # of samples in memory
        self.net: Logits | None = None
        self._doing: str | None = None  # what the Trainer's forward passes are for: train, evaluate
        self._hooks: list[Any] = []

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Take the model, before an optimizer is made for it."""
        check_unwrapped(model)
        _check(args, model)
        self.companion.claim(model)
        if self.net is None:
            self.net = Logits(model)
            rule = self.companion.selector
            if self.net.shifts and isinstance(self._selector, str) and isinstance(rule, Role):
                rule.with_head = False  # a language model's is no new one
            self.companion.join(self.net)

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        train_dataloader: Any = None,
        optimizer: Any = None,
        **others: Any,
    ) -> None:
        """Choose what trains; everything else is frozen from here on."""
        assert self.net is not None
        self._let_go()  # of a training that an error ended
        if state.global_step:
            self._resume(args, state)
        self._together, self._batches = args.gradient_accumulation_steps, len(train_dataloader)
        mixes = self.companion.strategy.uses("augment")
        if mixes and self._together > 1:
            raise UsageError(
                f"gradient_accumulation_steps={self._together}: replay mixes into whole batches. Expected 1 and a larger "
                "per_device_train_batch_size."
            )
        collate = train_dataloader.collate_fn
        data = DataSet(train_dataloader.dataset, collate, self.net.batch, self.net)
        self.suites = {
            name: Suite(name, DataSet(held, collate, self.net.batch, self.net), objective=self.net.objective)
            for name, held in self.held_out.items()
        }
        if not self.companion.held_out:
            self.companion.evaluate(self.suites, args.per_device_eval_batch_size)
        shape = next(iter(data.batches(1))).x.shape[1:]
        if mixes:
            self._length = data.length = self._length or max(batch.x.shape[1] for batch in data.batches(64))
        index = self.companion.index
        self.companion.begin(
            Task(index, f"{index}", (), data, data, objective=self.net.objective),
            optimizer,
            shape=shape,
            classes=self.net.classes,
            epochs=max(1, round(state.num_train_epochs)),
            size=args.per_device_train_batch_size,
            steps=state.max_steps,
        )
        self._hooks = [
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            model.register_forward_hook(self._after_forward, with_kwargs=True),
        ]

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Forward passes are training from here on."""
        self._doing, self._number = "train", state.global_step
        begun = state.global_step * self._together % (-(-self._batches // self._together) * self._together)
        self._parts = min(self._together, self._batches - begun)  # an epoch's last group may be smaller

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Gradients are there, clipped if max_grad_norm says so."""
        self.companion.project()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """An update was made, and its gradients are still there."""
        self.companion.stepped()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """What comes next may be an evaluation or a checkpoint."""
        self._turn(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """The same."""
        self._turn(control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """A checkpoint may be what comes after it."""
        if self._hooks:
            self._enter("save" if control.should_save else "train")

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Leave what a resume needs in the Trainer's checkpoint."""
        torch.save({**self.companion.state_dict(), "length": self._length}, _folder(args, state) / CHECKPOINT)
        if self._hooks:
            self._enter("train")

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Remember, unfreeze, measure, and write what came of it."""
        self._remove_hooks()
        self.companion.end()
        self.companion.evaluate(self.suites, args.per_device_eval_batch_size)
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        self.companion.save(Path(args.output_dir) / RESULT)

    def _turn(self, control: Any) -> None:
        self._doing = None
        if self._hooks and control.should_evaluate:
            self._enter("evaluate")
        elif self._hooks and control.should_save:
            self._enter("save")

    def _enter(self, what: str) -> None:
        """Charge what comes to a phase; checkpoints are nobody's cost."""
        self.companion.enter(None if what == "save" else what)
        self._doing = "evaluate" if what == "evaluate" else None

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._doing = [], None

    def _let_go(self) -> None:
        self._remove_hooks()
        self.companion.abandon()

    def _resume(self, args: Any, state: Any) -> None:
        given = args.resume_from_checkpoint
        places = [Path(given)] if isinstance(given, str) else []
        for place in (*places, _folder(args, state)):
            if (place / CHECKPOINT).is_file():
                found = torch.load(place / CHECKPOINT, weights_only=True)
                self.companion.load_state_dict(found)
                self._length = found["length"]
                return
        raise UsageError(
            f"The Trainer goes on from step {state.global_step}, and {_folder(args, state)} has no {CHECKPOINT}: it was saved "
            "without this callback. Expected a checkpoint that was saved with it."
        )

    def _before_forward(self, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        assert self.net is not None
        if self._doing == "evaluate":
            with self._quiet():
                self.companion.price((self._doing, *_shapes(kwargs)), _size(kwargs), lambda: module(**kwargs))
        if not self._training(module):
            return None
        batch = self.net.batch(kwargs, self._length)
        with self._quiet():
            mixed = self.companion.mix(batch, self._number)
            kwargs = self.net.inputs(mixed, kwargs, self._parts) if len(mixed) > len(batch) else kwargs
            self._batch = mixed
            kind = (*_shapes(kwargs), self.companion.strategy.work(len(batch)))
            self.companion.price(kind, len(mixed), lambda: self._loss(module, kwargs).backward())
        return args, kwargs

    def _after_forward(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        if not self._training(module):
            return None
        with self._quiet():
            self._add(output, kwargs)
        return output

    def _loss(self, module: Any, kwargs: dict[str, Any]) -> Tensor:
        output = module(**kwargs)
        self._add(output, kwargs)
        return output["loss"]

    def _add(self, output: Any, kwargs: dict[str, Any]) -> None:
        logits = output.get("logits")
        if logits is None and self.companion.reads_logits():
            raise UsageError(
                "The model gives out no logits, which the method looks at. Expected a loss that keeps them, in TRL "
                "SFTConfig(loss_type='nll')."
            )
        logits = output["loss"].detach() if logits is None else logits  # methods about weights only put zeros beside it
        penalty = self.companion.penalty(self._batch, logits.float())
        if penalty is not None:  # where the loss is of all that is accumulated, each part of it adds its share
            output["loss"] = output["loss"] + penalty / (self._parts if "num_items_in_batch" in kwargs else 1)

    def _training(self, module: nn.Module) -> bool:
        return self._doing == "train" and module.training and torch.is_grad_enabled()

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Let forward passes of our own go by unseen."""
        was, self._doing = self._doing, None
        try:
            yield
        finally:
            self._doing = was


def _shapes(inputs: Mapping[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    return sorted((key, tuple(value.shape)) for key, value in inputs.items() if isinstance(value, Tensor))


def _size(inputs: Mapping[str, Any]) -> int:
    return next(len(value) for value in inputs.values() if isinstance(value, Tensor) and value.ndim)


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _check(args: Any, model: Any) -> None:
    """Refuse a model or a Trainer that the callback cannot serve."""
    if not hasattr(model, "main_input_name") or not hasattr(model, "config"):
        raise UsageError(f"{type(model).__name__} is no model of transformers': expected a PreTrainedModel.")
    if args.world_size > 1 or args.n_gpu > 1:
        raise UsageError(
            f"{args.world_size} processes with {args.n_gpu} GPUs each: expected one process with one device."
        )
    if args.fp16:
        raise UsageError(
            "fp16=True scales gradients, and what is added to them would be scaled too. Expected bf16=True."
        )
