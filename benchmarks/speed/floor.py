"""The floor: what somebody would write by hand for one method, one model and this data, with nothing else in the loop.

What a method remembers at a task's end is not the loop's speed: frostline's own functions do it, outside the timed region.
The memory that DER++ fills at every step is frostline's on both sides too.
"""

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.buffers import Buffer
from frostline.core.importance import probe, sensitivity, squared_gradients
from frostline.core.rng import generator
from frostline.core.structure import blocks, head
from frostline.core.types import Batch, Task, TaskStream
from frostline.strategies import AGEM, EWC, MAS, SI, DERpp, LwF, Replay

Named = dict[str, nn.Parameter]
MAS_STRENGTH = 0.01  # its 1 diverges at this rate


class Finetune:
    """The bare step; the other methods say what they do otherwise."""

    def __init__(self, net: nn.Module, seed: int):
        self.net, self.seed = net, seed
        self.seen: Tensor  # [C] bool

    def begin(self, trained: Named, task: Task) -> None:
        """Get ready for a task."""
        self.trained = trained

    def step(self, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
        """Take a step."""
        loss = self.loss(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return F.cross_entropy(self.masked(self.net(x)), y)

    def masked(self, logits: Tensor) -> Tensor:
        """Return logits with classes that were not seen yet at -inf."""
        return logits.masked_fill(~self.seen, -torch.inf)

    def end(self, task: Task) -> None:
        """Remember what there is to remember; not timed."""


class Partial(Finetune):
    """All but the last two blocks frozen after the first task."""


class ReplayByHand(Finetune):
    """A few old samples in every batch."""

    rule, capacity, order = "reservoir", Replay().capacity, "replay order"

    def __init__(self, net: nn.Module, seed: int):
        super().__init__(net, seed)
        self.memory = Buffer(self.capacity, self.rule, seed)
        self.draws = generator(seed, "buffer-draws")

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return old samples and their labels."""
        old = torch.randperm(len(self.memory), generator=self.draws)[:count].to(self.memory.columns["y"].device)
        return self.memory.columns["x"].index_select(0, old), self.memory.columns["y"][old]

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of the batch with as many old samples beside it."""
        if len(self.memory):
            old, labels = self.draw(len(x))
            x, y = torch.cat([x, old]), torch.cat([y, labels])
        return super().loss(x, y)

    def end(self, task: Task) -> None:
        """Offer the task's samples to the memory."""
        offered = torch.randperm(len(task.train), generator=generator(self.seed, self.order, task.index))
        for batch in task.train.batches(1024, offered):
            self.memory.add(batch)


class ERACE(ReplayByHand):
    """Incoming samples among the classes of their batch, old ones among all."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the sum of both means."""
        present = torch.zeros_like(self.seen)
        present[y] = True
        if not len(self.memory):
            return F.cross_entropy(self.net(x).masked_fill(~present, -torch.inf), y)
        old, labels = self.draw(len(x))
        logits = self.net(torch.cat([x, old]))
        return F.cross_entropy(logits[: len(x)].masked_fill(~present, -torch.inf), y) + F.cross_entropy(
            self.masked(logits[len(x) :]), labels
        )


class AGEMByHand(ReplayByHand):
    """The gradient without what points against that of old samples."""

    rule, capacity, order = AGEM().buffer, AGEM().capacity, "agem order"

    def step(self, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
        """Take a step along what is left of the gradient."""
        optimizer.zero_grad(set_to_none=True)
        Finetune.loss(self, x, y).backward()
        if len(self.memory):
            weights = list(self.trained.values())
            own = torch.cat([p.grad.flatten() for p in weights if p.grad is not None])
            old = torch.cat(
                [g.flatten() for g in torch.autograd.grad(Finetune.loss(self, *self.draw(len(x))), weights)]
            )
            own = own - ((own @ old).clamp(max=0) / (old @ old).clamp(min=1e-30)) * old
            for p, g in zip(weights, own.split([p.numel() for p in weights]), strict=True):
                p.grad = g.view_as(p)
        optimizer.step()


class DERppByHand(Finetune):
    """Old answers and old labels, a draw for each."""

    def __init__(self, net: nn.Module, seed: int):
        super().__init__(net, seed)
        self.memory = Buffer(DERpp().capacity, seed=seed)

    def step(self, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
        """Take a step, and offer the batch with its logits to the memory."""
        n, method = len(x), DERpp()
        if not len(self.memory):
            raw = self.net(x)
            loss = F.cross_entropy(self.masked(raw), y)
        else:
            answers, labels = self.memory.draw(n), self.memory.draw(n)
            raw = self.net(torch.cat([x, answers.x, labels.x]))
            new, first, second = raw.split([n, len(answers), len(labels)])
            loss = F.cross_entropy(self.masked(new), y) + method.beta * F.cross_entropy(self.masked(second), labels.y)
            loss = loss + method.alpha * (first - answers.columns["answers"]).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        zeros = torch.zeros_like(y)
        self.memory.add(Batch(x, y, zeros, zeros, columns={"answers": raw[:n].detach()}))


class Penalised(Finetune):
    """A quadratic pull to where weights were."""

    factor = EWC().strength / 2

    def __init__(self, net: nn.Module, seed: int):
        super().__init__(net, seed)
        self.importance: dict[str, Tensor] = {}
        self.centre: dict[str, Tensor] = {}

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss with the pull."""
        loss = super().loss(x, y)
        if not self.importance:
            return loss
        terms = [(self.importance[n] * (p - self.centre[n]).square()).sum() for n, p in self.trained.items()]
        return loss + self.factor * torch.stack(terms).sum()


class EWCByHand(Penalised):
    """Fisher information."""

    def end(self, task: Task) -> None:
        """Add this task's, and move the centre its share of the way."""
        rng, method = generator(self.seed, "fisher", task.index), EWC()
        batches = probe(task, method.samples, rng)
        new = squared_gradients(self.net, task, batches, labels=method.labels, generator=rng)
        for name, p in self.net.named_parameters():
            total = self.importance.get(name, 0) + new[name]
            share = torch.where(total > 0, new[name] / total, 0.0)
            self.centre[name] = torch.lerp(self.centre.get(name, p.detach()), p.detach(), share)
            self.importance[name] = total


class MASByHand(Penalised):
    """How far the output moves with a weight."""

    factor = MAS_STRENGTH

    def end(self, task: Task) -> None:
        """Add this task's."""
        found = sensitivity(self.net, task, probe(task, MAS().samples, generator(self.seed, "mas", task.index)))
        for name, p in self.net.named_parameters():
            self.importance[name] = self.importance.get(name, 0) + found[name]
            self.centre[name] = p.detach().clone()


class SIByHand(Penalised):
    """What a weight's way did for the loss."""

    def begin(self, trained: Named, task: Task) -> None:
        """Note where the weights set out."""
        super().begin(trained, task)
        self.start = {name: p.detach().clone() for name, p in trained.items()}
        self.path = {name: torch.zeros_like(p) for name, p in trained.items()}

    def step(self, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
        """Take a step with the pull, and add to the paths without it."""
        optimizer.zero_grad(set_to_none=True)
        Finetune.loss(self, x, y).backward()
        own = {name: p.grad for name, p in self.trained.items() if p.grad is not None}
        before = {name: p.detach().clone() for name, p in self.trained.items()}
        if self.importance:
            for name, p in self.trained.items():
                pull = self.importance[name] * (before[name] - self.centre[name])
                p.grad = own[name] + 2 * SI().strength * pull
        optimizer.step()
        for name, p in self.trained.items():
            self.path[name].sub_(own[name] * (p.detach() - before[name]))

    def end(self, task: Task) -> None:
        """Turn the paths into importance."""
        for name, p in self.trained.items():
            grown = self.path[name] / ((p.detach() - self.start[name]).square() + SI().damping)
            self.importance[name] = (self.importance.get(name, 0) + grown).clamp(min=0)
            self.centre[name] = p.detach().clone()


class LwFByHand(Finetune):
    """The old model's answers on the new data."""

    old: Tensor | None = None  # places of the classes that it knew

    def begin(self, trained: Named, task: Task) -> None:
        """Copy the model."""
        super().begin(trained, task)
        self.teacher = copy.deepcopy(self.net).eval()

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss with the distillation term."""
        raw = self.net(x)
        loss = F.cross_entropy(self.masked(raw), y)
        if self.old is None:
            return loss
        temperature = LwF().temperature
        with torch.no_grad():
            target = (self.teacher(x)[:, self.old] / temperature).log_softmax(-1)
        own = (raw[:, self.old] / temperature).log_softmax(-1)
        divergence = F.kl_div(own, target, reduction="batchmean", log_target=True)
        return loss + LwF().strength * temperature**2 * divergence

    def end(self, task: Task) -> None:
        """Note what the model knows."""
        self.old = self.seen.nonzero().squeeze(1)


METHODS = {
    "finetune": Finetune, "replay": ReplayByHand, "ewc": EWCByHand, "partial": Partial, "si": SIByHand, "mas": MASByHand,
    "lwf": LwFByHand, "der_pp": DERppByHand, "er_ace": ERACE, "agem": AGEMByHand,
}  # fmt: skip


@dataclass
class Bare:
    """One method's loop. Data are tensors in memory, as frostline's are; only the steps are timed."""

    method: str
    lr: float
    batch_size: int
    seed: int = 0

    def __call__(self, net: nn.Module, stream: TaskStream) -> tuple[float, int]:
        """Train `net` on every task once; return the seconds of the steps and their number."""
        hand = METHODS[self.method](net, self.seed)
        seconds, steps, every = 0.0, 0, torch.arange(stream.classes)
        for t, task in enumerate(stream.tasks):
            data = next(iter(task.train.batches(len(task.train))))
            device = data.x.device
            hand.seen = torch.isin(every, torch.tensor(_classes(stream.tasks[: t + 1]))).to(device)
            net.train()
            if self.method == "partial" and t > 0:
                freeze_all_but_last_two_blocks(net)
            trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
            hand.begin(trained, task)
            order = torch.randperm(len(data), generator=generator(self.seed, "order", t, 0)).to(device)
            _synchronise(device)
            begin = time.perf_counter()
            optimizer = torch.optim.SGD(trained.values(), lr=self.lr)
            for first in range(0, len(data), self.batch_size):
                rows = order[first : first + self.batch_size]
                hand.step(optimizer, data.x.index_select(0, rows), data.y[rows])
                steps += 1
            _synchronise(device)
            seconds += time.perf_counter() - begin
            hand.end(task)
        return seconds, steps


def _classes(tasks: Iterable[Task]) -> list[int]:
    return [label for task in tasks for label in task.classes]


def freeze_all_but_last_two_blocks(net: nn.Module) -> None:
    """Freeze by hand: weights before the forward pass, and the running statistics of frozen norms."""
    kept = head(net).union(*blocks(net)[-2:])
    for name, p in net.named_parameters():
        p.requires_grad_(name in kept)
    for module in net.modules():
        if "running_mean" in module._buffers and not any(p.requires_grad for p in module.parameters()):
            module.eval()


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
