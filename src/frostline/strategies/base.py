"""Strategy: hooks that return values; a strategy never sees the loop."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch import Tensor, nn

from frostline.core.checks import UsageError
from frostline.core.features import needs_linear_head
from frostline.core.objectives import Classification
from frostline.core.scope import Scope
from frostline.core.step import Step
from frostline.core.tensors import tensor_bytes
from frostline.core.types import Batch, Task, TaskStream

Grads = dict[str, Tensor]
AT_STEPS = ("augment", "criterion", "penalty", "project", "after_step")  # hooks that are given a batch at every step


class Strategy:
    """Fine-tuning; a method overrides the hooks that it needs and nothing else.

    The loop calls, for each task: prepare, task, parts, before_task; whenever something thaws, thawing; at each step augment,
    criterion + penalty, project, after_step; after each part after_part; at the end after_task. Everything that a method
    remembers is in its state_dict, as tensors and plain values: the same dictionary restores it after a kill, undoes the
    probe that counts a step's operations, and says how many bytes it keeps. `keeps` names the attributes that it is made of.
    """

    keeps: ClassVar[Sequence[str]] = ()
    steady: bool = True  # whether frozen stages put out for a task what they did at the last evaluation

    def recalls(self) -> bool:
        """Return whether it holds on to earlier tasks and does nothing else: then it has nothing to do while there are none."""
        return False

    def check(self, model: nn.Module, stream: TaskStream) -> None:
        """Raise UsageError for a model or a stream that the method cannot work with; called before any training."""

    def prepare(self, model: nn.Module, index: int) -> None:
        """Give the model what task `index` needs: prompts, masks, grown layers; called again before a checkpoint is loaded."""

    def task(self, stream: TaskStream, index: int) -> Task | None:
        """Return what to learn from when task `index` arrives, None to wait for a later one. One owner in a chain."""
        return stream[index]

    def parts(self, task: Task) -> Sequence[Task]:
        """Return what learning the task consists of, one after another: the task itself with other data or epochs."""
        return [task]

    def before_task(self, scope: Scope, task: Task) -> None:
        """Get ready; the scope with which the task begins is known and thawed. Not called again after a resume within it."""

    def thawing(self, scope: Scope, task: Task) -> None:
        """Look at what is about to train; called before its first step, and after a resume once more."""

    def watching(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return what is in force while the model learns, such as forward hooks; such a run is neither stacked nor compiled."""
        return nullcontext()

    def rates(self, number: int, steps: int) -> float | Mapping[str, float]:
        """Return what the learning rate is multiplied by at this step of the task: for all parameters, or by name."""
        return 1.0

    def augment(self, step: Step, batch: Batch) -> Batch:
        """Return the batch to learn from. In a chain the output of one is the input of the next."""
        return batch

    def criterion(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar mean. One owner in a chain."""
        return step.loss(logits, batch.y)

    def penalty(self, step: Step, batch: Batch, logits: Tensor) -> Tensor:
        """Return what is added to the loss, a scalar. In a chain penalties are summed."""
        return logits.new_zeros(())

    def additive(self) -> bool:
        """Tell whether a batch's loss is the mean over its targets, plus what depends on no sample: parts then add up to it."""
        return not any(map(self.uses, ("criterion", "penalty", "watching")))

    def project(self, step: Step, batch: Batch, grads: Grads) -> Grads:
        """Return the gradients to step with, by parameter name. In a chain the output of one is the input of the next."""
        return grads

    def after_step(self, step: Step, batch: Batch, grads: Grads) -> None:
        """Look at the step just taken; `grads` are those that it was taken with."""

    def after_part(self, scope: Scope, part: Task, number: int) -> None:
        """Change what must change between the parts of a task; charged to the phase `consolidate`."""

    def after_task(self, scope: Scope, task: Task) -> None:
        """Remember what must not be lost; charged to `consolidate`. scope: all that trained in the task."""

    def serving(self, model: nn.Module, task: Task | None) -> AbstractContextManager[Any]:
        """Return what is in force while test data of a task are decided: another head, other weights, masks. One owner.

        task: None for data of no task of the stream, and for the model that is exported.
        """
        return nullcontext()

    def work(self, size: int) -> Hashable:
        """Return whatever, beside the size of the incoming batch, decides the operations of a step within a task.

        The loop counts a step once for each distinct value: replay returns how many samples it will add.
        """
        return None

    def remembered(self) -> Iterable[Batch] | None:
        """Return the samples that `augment` may add during this task, so that a cache can hold them too.

        None says that `augment` does something else to the batch; then nothing is cached.
        """
        return None if self.uses("augment") else ()

    def reads_samples(self) -> bool:
        """Tell whether any hook called at a step looks at batch.x; where none does, cached samples are not even read."""
        return any(map(self.uses, AT_STEPS))

    def sees_images(self) -> bool:
        """Tell whether any hook looks at batch.x as it is learned from, so that random images must be there."""
        return self.reads_samples() and any(self.uses(hook) for hook in AT_STEPS if hook != "augment")

    def stored_bytes(self) -> int:
        """Return the bytes kept from task to task: what `keeps` names, random states left out."""
        return sum(_bytes(getattr(self, name)) for name in self.keeps)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the method remembers."""
        return {name: _state(getattr(self, name)) for name in self.keeps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""
        for name in self.keeps:
            own = getattr(self, name)
            if hasattr(own, "load_state_dict"):
                own.load_state_dict(state[name])
            else:
                setattr(self, name, _state(state[name]))
        self.restored()

    def restored(self) -> None:
        """Work out again what follows from what is remembered and is not stored itself."""

    def uses(self, hook: str) -> bool:
        """Tell whether this method does anything of its own at `hook`, so that the loop can leave out what nobody needs."""
        return getattr(type(self), hook) is not getattr(Strategy, hook)


def needs_classes(name: str, stream: TaskStream, several: bool = False, instead: str = "") -> None:
    """Raise UsageError where samples have no single class each, or, if several will do (the words of a text), none."""
    if not isinstance(stream.objective, Classification) or (stream[0].train.labels.ndim > 1 and not several):
        what = "classes" if several else "one class a sample"
        raise UsageError(f"strategy={name} needs {what}, which {stream.name} does not have.{instead}")


def needs_features(name: str, model: nn.Module, stream: TaskStream) -> None:
    """Raise UsageError where samples have no single class each, or the net no linear head to look at the input of."""
    needs_classes(name, stream)
    needs_linear_head(name, model)


def needs_task_labels(name: str, what: str, stream: TaskStream) -> None:
    """Raise UsageError where test samples do not say which task they belong to."""
    if stream.scenario != "task":
        raise UsageError(
            f"strategy={name} decides each task with its own {what}, which a {stream.scenario}-incremental stream does "
            "not name. Expected stream.scenario=task; from Python, from_tasks(..., scenario='task')."
        )


def _state(value: Any) -> Any:
    """Return a value for the state_dict: containers copied, so that the method's own may change meanwhile."""
    if hasattr(value, "state_dict"):
        return value.state_dict()
    if isinstance(value, dict):
        return {key: _state(inner) for key, inner in value.items()}
    return [_state(inner) for inner in value] if isinstance(value, list) else value


def _bytes(value: Any) -> int:
    return value.nbytes if hasattr(value, "state_dict") else tensor_bytes(value)
