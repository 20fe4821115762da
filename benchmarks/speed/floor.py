"""The floor: what somebody would write by hand for one method, one model and this data, with nothing else in the loop."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frostline.core.buffers import Buffer
from frostline.core.importance import probe, squared_gradients
from frostline.core.rng import generator
from frostline.core.structure import blocks, head
from frostline.core.types import TaskStream
from frostline.strategies import EWC, Replay


@dataclass
class Bare:
    """One method's loop. Data are tensors in memory, as frostline's are; only the steps are timed."""

    method: str  # finetune | replay | ewc | partial
    lr: float
    batch_size: int
    seed: int = 0

    def __call__(self, net: nn.Module, stream: TaskStream) -> tuple[float, int]:
        """Train `net` on every task once; return the seconds of the steps and their number."""
        memory = Buffer(Replay().capacity, seed=self.seed)
        draws = generator(self.seed, "buffer-draws")
        fisher: dict[str, Tensor] = {}
        centre: dict[str, Tensor] = {}
        seconds, steps, every = 0.0, 0, torch.arange(stream.classes)
        for t, task in enumerate(stream.tasks):
            data = next(iter(task.train.batches(len(task.train))))
            seen = torch.isin(every, torch.tensor([c for s in stream.tasks[: t + 1] for c in s.classes])).to(
                data.x.device
            )
            net.train()
            if self.method == "partial" and t > 0:
                freeze_all_but_last_two_blocks(net)
            trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
            order = torch.randperm(len(data), generator=generator(self.seed, "order", t, 0)).to(data.x.device)
            _synchronise(data.x.device)
            begin = time.perf_counter()
            optimizer = torch.optim.SGD(trained.values(), lr=self.lr)
            for first in range(0, len(data), self.batch_size):
                rows = order[first : first + self.batch_size]
                x, y = data.x.index_select(0, rows), data.y[rows]
                if self.method == "replay" and len(memory):
                    old = torch.randperm(len(memory), generator=draws)[: len(rows)].to(rows.device)
                    x = torch.cat([x, memory.columns["x"].index_select(0, old)])
                    y = torch.cat([y, memory.columns["y"][old]])
                loss = F.cross_entropy(net(x).masked_fill(~seen, -torch.inf), y)
                if self.method == "ewc" and fisher:
                    terms = [(fisher[name] * (p - centre[name]).square()).sum() for name, p in trained.items()]
                    loss = loss + EWC().strength / 2 * torch.stack(terms).sum()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                steps += 1
            _synchronise(data.x.device)
            seconds += time.perf_counter() - begin
            # What the method remembers after a task is not the loop's speed: frostline's own functions do it.
            if self.method == "replay":
                offered = torch.randperm(len(data), generator=generator(self.seed, "replay order", t))
                for batch in task.train.batches(1024, offered):
                    memory.add(batch)
            if self.method == "ewc":
                rng = generator(self.seed, "fisher", t)
                new = squared_gradients(net, task, probe(task, EWC().samples, rng), labels=EWC().labels, generator=rng)
                for name, p in net.named_parameters():
                    total = fisher.get(name, 0) + new[name]
                    share = torch.where(total > 0, new[name] / total, 0.0)
                    centre[name] = torch.lerp(centre.get(name, p.detach()), p.detach(), share)
                    fisher[name] = total
        return seconds, steps


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
