"""Strategy: hooks that return values; a strategy never sees the loop."""

from collections.abc import Hashable, Iterable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from frostline.memory import tensor_bytes
from frostline.scope import Scope
from frostline.types import Batch, Task, TaskStream

Grads = dict[str, Tensor]


class Strategy:
    """Fine-tuning; a method overrides the hooks that it needs and nothing else.

    The loop calls, for each task: task, before_task, then for each step augment, criterion + penalty, project,
    after_step, and at the end after_task. Everything that a method remembers is in its state_dict, as tensors and
    plain values: the same dictionary restores it after a kill, undoes the probe that counts a step's operations, and
    says how many bytes it keeps.
    """

    def task(self, stream: TaskStream, index: int) -> Task | None:
        """Return what to learn from when task `index` arrives, None to wait for a later one. One owner in a chain."""
        return stream[index]

    def before_task(self, scope: Scope, task: Task) -> None:
        """Get ready; the scope of this task is known and thawed."""

    def augment(self, batch: Batch) -> Batch:
        """Return the batch to learn from. In a chain the output of one is the input of the next."""
        return batch

    def criterion(self, batch: Batch, logits: Tensor) -> Tensor:
        """Return the loss of the batch, a scalar mean. One owner in a chain."""
        return F.cross_entropy(logits, batch.y)

    def penalty(self, scope: Scope, batch: Batch, logits: Tensor) -> Tensor:
        """Return what is added to the loss, a scalar. In a chain penalties are summed."""
        return logits.new_zeros(())

    def project(self, scope: Scope, grads: Grads) -> Grads:
        """Return the gradients to step with, by parameter name. In a chain the output of one is the input of the next."""
        return grads

    def after_step(self, scope: Scope, grads: Grads) -> None:
        """Look at the step just taken; `grads` are those that it was taken with."""

    def after_task(self, scope: Scope, task: Task) -> None:
        """Remember what must not be lost; charged to the phase `consolidate`."""

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
        return any(self.uses(hook) for hook in ("augment", "criterion", "penalty", "after_step"))

    def stored_bytes(self) -> int:
        """Return the bytes kept from task to task: by default every tensor in the state_dict but random states."""
        return tensor_bytes(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return all that the method remembers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore it."""

    def uses(self, hook: str) -> bool:
        """Tell whether this method does anything of its own at `hook`, so that the loop can leave out what nobody needs."""
        return getattr(type(self), hook) is not getattr(Strategy, hook)
