"""Hugging Face's Trainer, and TRL's: our selector, strategies and bill as a callback."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from frostline.core.checks import UsageError
from frostline.core.objectives import IGNORED, Classification, Objective, Regression
from frostline.core.torchvision_schemas import torchvision
from frostline.core.types import Batch, Suite, Task
from frostline.integrations.companion import Companion
from frostline.selectors.roles import Role

torchvision()  # transformers imports it
try:
    from transformers import TrainerCallback
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
except ImportError as error:
    raise UsageError("FrostlineCallback needs transformers: pip install 'frostline[text]' accelerate.") from error

CHECKPOINT = "frostline.pt"  # in each checkpoint of the Trainer's
RESULT = "frostline.json"  # in its output_dir
TEXT = ("input_ids", "attention_mask", "token_type_ids")
NOT_DATA = ("labels", "num_items_in_batch", "return_loss", "use_cache", "output_hidden_states", "output_attentions")
_JOINED: WeakKeyDictionary[nn.Module, "FrostlineCallback"] = WeakKeyDictionary()


class FrostlineCallback(TrainerCallback):
    """Freeze all but what a rule chooses, keep what was learned, measure what it costs and what is forgotten.

    selector, strategy: a name, with the settings of its YAML, or an object; several strategies are a chain. Methods that add
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
        self.net: _Logits | None = None
        self._live = False  # a forward pass is one of the Trainer's own training
        self._hooks: list[Any] = []

    @property
    def ledger(self) -> list[dict[str, Any]]:
        """The bill: a row for each phase of each task."""
        return [dict(vars(row)) for row in self.companion.meter.rows]

    @property
    def trained(self) -> list[list[str]]:
        """The names of the parameters that trained, a list for each task."""
        return self.companion.result()["trained"]

    @property
    def forgetting(self) -> dict[str, float]:
        """By how much the loss on each held-out set has risen, nats a target."""
        return self.companion.forgetting

    def result(self) -> dict[str, Any]:
        """Return what trained, what it cost and what it forgot, as plain values."""
        return self.companion.result()

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Take the model, before an optimizer is made for it."""
        _check(args, model)
        if _JOINED.setdefault(model, self) is not self:
            raise UsageError(
                "This model has a FrostlineCallback already: it was given twice, or to two Trainers at once."
            )
        if self.net is not None and self.net.net is not model:
            raise UsageError("This FrostlineCallback went with another model. Expected a new one for each model.")
        if self.net is None:
            self.net = _Logits(model)
            rule = self.companion.selector
            if self.net.shifts and isinstance(self._selector, str) and isinstance(rule, Role):
                rule.with_head = False  # a language model's is no new one
            self.companion.join(self.net)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, train_dataloader: Any = None, **others: Any
    ) -> None:
        """Choose what trains; everything else is frozen from here on."""
        assert self.net is not None
        if self._hooks:
            self._let_go()  # of a training that an error ended
        if state.global_step:
            self._resume(args, state)
        source = _Source(train_dataloader.dataset, train_dataloader.collate_fn, self.net)
        self.suites = {
            name: Suite(name, _Source(data, train_dataloader.collate_fn, self.net), objective=self.net.objective)
            for name, data in self.held_out.items()
        }
        size = args.per_device_train_batch_size
        if self.suites and not self.companion.held_out:
            self.companion.evaluate(self.suites, args.per_device_eval_batch_size)
        shape = next(iter(source.batches(1))).x.shape[1:]
        task = Task(self.companion.index, f"{self.companion.index}", (), source, source, objective=self.net.objective)
        self.companion.begin(
            task, shape, self.net.classes, max(1, round(state.num_train_epochs)), size, state.max_steps
        )
        self._parts = args.gradient_accumulation_steps
        if self.companion.strategy.uses("augment"):
            self._length = source.length = self._length or shape[0]
        if self._length and self._parts > 1:
            raise UsageError(
                f"gradient_accumulation_steps={self._parts}: replay mixes into whole batches. Expected 1, and a larger batch."
            )
        self._hooks = [
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            model.register_forward_hook(self._after_forward, with_kwargs=True),
        ]

    def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Forward passes are training from here on."""
        self._live, self._number = True, state.global_step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Gradients are there, clipped if max_grad_norm says so."""
        self.companion.project()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """An update was made, and its gradients are still there."""
        self.companion.stepped()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """What comes next may be an evaluation or a checkpoint."""
        self._live = False
        self._turn(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self._turn(control)

    def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self._hooks:
            self.companion.enter(None if control.should_save else "train")

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Leave what a resume needs in the Trainer's checkpoint."""
        torch.save({**self.companion.state_dict(), "length": self._length}, _folder(args, state) / CHECKPOINT)
        if self._hooks:
            self.companion.enter("train")

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Remember, unfreeze, measure, and write what came of it."""
        self._live = False
        self.companion.enter(None)
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.companion.end()
        if self.suites:
            self.companion.evaluate(self.suites, args.per_device_eval_batch_size)
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        self.companion.save(Path(args.output_dir) / RESULT)

    def _turn(self, control: Any) -> None:
        if self._hooks and (control.should_evaluate or control.should_save):
            self.companion.enter("evaluate" if control.should_evaluate else None)

    def _let_go(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._live = [], False
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
        if not self._training(module):
            return None
        assert self.net is not None
        batch = self.net.batch(kwargs, self._length)
        with self._quiet():
            mixed = self.companion.mix(batch, self._number)
            kwargs = self.net.inputs(mixed, kwargs, self._parts) if len(mixed) > len(batch) else kwargs
            self._batch = mixed
            shapes = {key: tuple(value.shape) for key, value in kwargs.items() if isinstance(value, Tensor)}
            kind = (*sorted(shapes.items()), self.companion.strategy.work(len(batch)))
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
        penalty = self.companion.penalty(self._batch, output["logits"].float())
        if penalty is not None:  # where the loss is of all that is accumulated, each part of it adds its share
            output["loss"] = output["loss"] + penalty / (self._parts if "num_items_in_batch" in kwargs else 1)

    def _training(self, module: nn.Module) -> bool:
        return self._live and module.training and torch.is_grad_enabled()

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Let forward passes of our own go by unseen."""
        self._live = False
        try:
            yield
        finally:
            self._live = True


class _Logits(nn.Module):
    """A model of Hugging Face's as frostline's are: one tensor in, logits out, targets where they are predicted.

    What goes in is [B, L, K], the token ids with what comes beside them, or the model's main input as it is.
    """

    def __init__(self, net: Any):
        super().__init__()
        self.net = net
        self.keys: tuple[str, ...] = ()
        self.main = net.main_input_name
        name = type(net).__name__
        self.shifts = name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() or name.endswith(
            ("ForCausalLM", "LMHeadModel")
        )
        self.classes = int(getattr(net.config, "vocab_size", 1) if self.shifts else net.config.num_labels)
        regression = not self.shifts and getattr(net.config, "problem_type", None) == "regression"
        self.objective: Objective = Regression() if regression or self.classes == 1 else Classification()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        more = {"use_cache": False} if self.shifts else {}
        given = dict(zip(self.keys, x.unbind(-1), strict=True)) if self.keys else {self.main: x}
        return self.net(**given, **more).logits

    def batch(self, inputs: Mapping[str, Any], length: int | None = None) -> Batch:
        """Return what a collator made of some samples; padded to `length`, where a memory has samples of that."""
        if inputs.get("labels") is None:
            raise UsageError(
                "The model is called without labels, so its loss is made elsewhere (label_smoothing_factor, compute_loss_func, "
                "or a collator that gives none). Expected labels beside the inputs."
            )
        known = [key for key in TEXT if inputs.get(key) is not None] if self.main == "input_ids" else [self.main]
        other = [k for k, v in inputs.items() if isinstance(v, Tensor) and k not in (*known, *NOT_DATA)]
        if other or self.main not in known:
            found = ", ".join(other) or f"no {self.main}"
            raise UsageError(f"The model is given {found}: expected {', '.join(TEXT)} and labels.")
        self.keys = tuple(known) if self.main == "input_ids" else ()
        x = torch.stack([inputs[key] for key in known], -1) if self.keys else inputs[self.main]
        y = inputs["labels"]
        if self.shifts:  # token t is what place t - 1 predicts
            y = torch.cat([y[:, 1:], torch.full_like(y[:, :1], IGNORED)], 1)
        if length is not None and self.keys:
            x, y = self._padded(x, y, length)
        places = torch.arange(len(x), device=x.device)
        return Batch(x, y, torch.zeros_like(places), places)

    def inputs(self, batch: Batch, given: Mapping[str, Any], parts: int) -> dict[str, Any]:
        """Return what the model is called with for a batch to which samples were added."""
        own = dict(zip(self.keys, batch.x.unbind(-1), strict=True)) if self.keys else {self.main: batch.x}
        y = batch.y
        if self.shifts:
            y = torch.cat([torch.full_like(y[:, :1], IGNORED), y[:, :-1]], 1)
        found = {**given, **own, "labels": y}
        if (count := given.get("num_items_in_batch")) is not None:
            more = self.objective.counted(batch.y).sum() - (given["labels"][..., 1:] != IGNORED).sum()
            found["num_items_in_batch"] = count + parts * more
        return found

    def _padded(self, x: Tensor, y: Tensor, length: int) -> tuple[Tensor, Tensor]:
        more = length - x.shape[1]
        if more < 0:
            raise UsageError(
                f"A batch has {x.shape[1]} tokens a sample, and those in memory {length}: replay keeps samples of one length. "
                "Expected a tokenizer that pads all to one: padding='max_length'."
            )
        if not more:
            return x, y
        filling = [getattr(self.net.config, "pad_token_id", None) or 0, 0, 0][: x.shape[2]]
        pad = x.new_tensor(filling).expand(len(x), more, -1)
        y = torch.cat([y, y.new_full((len(y), more), IGNORED)], 1) if y.ndim > 1 else y
        return torch.cat([x, pad], 1), y


class _Source:
    """A Trainer's data set as frostline's are: batches in any order, as its collator makes them."""

    nbytes = 0

    def __init__(self, data: Any, collate: Callable[[list[Any]], Any], net: _Logits):
        if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
            raise UsageError(f"{type(data).__name__} has no length: expected a data set whose samples can be counted.")
        self.data, self.collate, self.net = data, collate, net
        self.length: int | None = None  # that batches are filled up to

    def __len__(self) -> int:
        return len(self.data)

    @property
    def labels(self) -> Tensor:
        """All targets: a walk through the data."""
        found = [batch.y.cpu() for batch in self.batches(64)]
        if found[0].ndim == 1:
            return torch.cat(found)
        longest = max(y.shape[1] for y in found)
        return torch.cat([nn.functional.pad(y, (0, longest - y.shape[1]), value=IGNORED) for y in found])

    def batches(
        self, size: int, order: Tensor | None = None, start: int = 0, *, samples: bool = True
    ) -> Iterator[Batch]:
        """Yield batches; each costs what its samples take to collate."""
        device = next(self.net.parameters()).device
        order = torch.arange(len(self)) if order is None else order
        for rows in order[start * size :].split(size):
            if len(rows):
                inputs = self.collate([self.data[int(row)] for row in rows])
                inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
                yield self.net.batch(inputs, self.length)


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _check(args: Any, model: Any) -> None:
    """Refuse a model or a Trainer that the callback cannot serve."""
    if hasattr(model, "_orig_mod") or isinstance(getattr(model, "module", None), nn.Module):
        raise UsageError(
            f"The Trainer's model is wrapped already, in {type(model).__name__}. Expected the model itself; the Trainer wraps "
            "it where that is needed."
        )
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
