"""What a training step would cost with any set of parameters thawed, without running it.

With F_l the forward operations of weighted layer l and m the shallowest thawed layer, a chain of layers costs

    C_step = sum_l F_l (1 + [l thawed] + [l > m])

With branches, shared weights and skips, 'after m' is a question of what the gradient reaches. So one step is traced
with everything thawed, on fake tensors that have shapes and devices but no values, and each backward operation keeps
the names of the parameters that make it necessary. Any thawed set is then priced by adding up, exactly.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.scope import Scope
from frostline.core.structure import everything, is_staged, packed_layers
from frostline.costs.flops import FlopCounter

# Inputs of an autograd node whose gradients are one product each, as large as the forward's. A node that is not here
# (attention, an operator of the user's own) computes all its gradients together.
PRODUCTS = {
    "MmBackward": (0, 1),
    "BmmBackward": (0, 1),
    "AddmmBackward": (1, 2),
    "BaddbmmBackward": (1, 2),
    "ConvolutionBackward": (0, 1),
    "Im2colConvolutionBackward": (0, 1),
}


@dataclass(frozen=True)
class StepCosts:
    """The price list of one training step.

    forward: operations of the forward pass. terms: (operations, names): a piece of the backward pass, and the
    parameters any of which makes it necessary; one piece may be the weight gradient of a layer (its own parameter) or
    the gradient that passes through it (all parameters before it); one without names is the weight gradient of a layer whose
    packed weights cannot train, which full fine-tuning would take. stages: forward operations and parameters of each
    stage, of a model that has stages: what a cache of the frozen prefix saves.
    """

    forward: int
    terms: tuple[tuple[int, frozenset[str]], ...]
    stages: tuple[tuple[int, frozenset[str]], ...] = ()

    def __call__(self, thawed: frozenset[str]) -> int:
        """Return the operations of one step with exactly `thawed` training."""
        return self.forward + sum(cost for cost, names in self.terms if not names.isdisjoint(thawed))

    def cached(self, thawed: frozenset[str], reuse: float) -> float:
        """Return the same where the frozen stages before the first thawed one run for the share `reuse` of the steps only."""
        saved = 0
        for cost, names in self.stages:
            if not names.isdisjoint(thawed):
                break
            saved += cost
        return self(thawed) - (1 - reuse) * saved

    @property
    def full(self) -> int:
        """Operations of a step that trains everything."""
        return self.forward + sum(cost for cost, _ in self.terms)

    @classmethod
    def trace(cls, model: nn.Module, x: Tensor) -> "StepCosts":
        """Read the price list of a step on x off one dry forward and backward pass.

        It goes over tensors without values, or, for a model that asks for some (`if x.mean() > 0`), over copies of its own.
        """
        from torch._subclasses import fake_tensor as fakes

        try:
            return cls._trace(model, x, fakes.FakeTensorMode(allow_non_fake_inputs=True), _like)
        except (
            fakes.DataDependentOutputException, fakes.DynamicOutputShapeException, fakes.UnsupportedFakeTensorException
        ):  # fmt: skip
            return cls._trace(model, x, nullcontext(), lambda t: t.detach().clone())

    @classmethod
    def _trace(
        cls, model: nn.Module, x: Tensor, fake: AbstractContextManager[Any], like: Callable[[Tensor], Tensor]
    ) -> "StepCosts":
        from torch.utils._python_dispatch import _disable_current_modes

        unseen = _disable_current_modes()  # a counter around us would take the dry run for work
        with unseen, torch.random.fork_rng(), Scope(model, everything(model)).thawed(), torch.enable_grad(), fake:
            leaves = {like(p).requires_grad_(): n for n, p in model.named_parameters()}
            originals = {id(p): leaf for p, leaf in zip(model.parameters(), leaves, strict=True)}
            originals |= {id(b): like(b) for b in model.buffers()}
            with (
                _swapped(model, originals),
                FlopCounter() as counter,
                _by_stage(model, counter) as stages,
                _of_packed(model, counter) as products,
            ):
                loss = model(like(x)).sum()
                forward = counter.total
                terms = _backward_terms(loss, leaves, counter)
        packed = tuple((cost, frozenset[str]()) for cost in products)
        return cls(forward, terms + packed, tuple(stages))


def _like(t: Tensor) -> Tensor:
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device)


@contextmanager
def _swapped(model: nn.Module, others: dict[int, Tensor]) -> Iterator[None]:
    """Put other tensors in the place of the model's own, by id; modules and tensors may be shared."""
    stores: list[dict[str, Any]] = [s for m in model.modules() for s in (m._parameters, m._buffers)]
    kept = [dict(store) for store in stores]
    for store in stores:
        store.update({name: others[id(t)] for name, t in store.items() if t is not None})
    try:
        yield
    finally:
        for store, own in zip(stores, kept, strict=True):
            store.update(own)


@contextmanager
def _of_packed(model: nn.Module, counter: FlopCounter) -> Iterator[list[int]]:
    """Fill a list with the operations of each layer of packed weights as they run."""
    found, before, handles = [], [0], []
    for layer in packed_layers(model):
        handles.append(layer.register_forward_pre_hook(lambda *_: before.__setitem__(0, counter.total)))
        handles.append(layer.register_forward_hook(lambda *_: found.append(counter.total - before[0])))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _by_stage(model: nn.Module, counter: FlopCounter) -> Iterator[list[tuple[int, frozenset[str]]]]:
    """Fill a list with the forward operations and the parameters of each stage as they run, if the model has stages."""
    found: list[tuple[int, frozenset[str]]] = []
    before, handles = [0], []
    names = {id(p): n for n, p in model.named_parameters()}
    for stage in model.stages() if is_staged(model) else ():
        own = frozenset(names[id(p)] for p in stage.parameters())
        handles.append(stage.register_forward_pre_hook(lambda *_: before.__setitem__(0, counter.total)))
        handles.append(stage.register_forward_hook(lambda *_, own=own: found.append((counter.total - before[0], own))))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _backward_terms(
    loss: Tensor, leaves: dict[Tensor, str], counter: FlopCounter
) -> tuple[tuple[int, frozenset[str]], ...]:
    """Run backward, count each node's operations, and say which parameters each piece is there for."""
    names = list(leaves.values())
    bit = {id(leaf): 1 << place for place, leaf in enumerate(leaves)}  # sets of parameters as bits: graphs are long
    nodes = _topological(loss.grad_fn)
    spent: dict[Any, int] = {}
    handles = []
    for node in nodes:
        if hasattr(node, "variable"):
            continue  # an AccumulateGrad: a parameter
        handles.append(node.register_prehook(lambda _, node=node: spent.__setitem__(node, counter.total)))
        handles.append(node.register_hook(lambda *_, node=node: spent.__setitem__(node, counter.total - spent[node])))
    loss.backward()
    for handle in handles:
        handle.remove()
    reach: dict[Any, int] = {}
    pieces: dict[int, int] = {}
    for node in reversed(nodes):  # children first
        if hasattr(node, "variable"):
            reach[node] = bit.get(id(node.variable), 0)
            continue
        edges = [child for child, _ in node.next_functions]
        reach[node] = 0
        for child in edges:
            reach[node] |= reach[child] if child is not None else 0
        if cost := spent.get(node, 0):
            kind = node.name().rstrip("0123456789")
            parts = [edges[i] for i in PRODUCTS.get(kind, ()) if edges[i] is not None]
            for part in parts or [node]:
                pieces[reach[part]] = pieces.get(reach[part], 0) + cost // max(1, len(parts))
    return tuple((cost, frozenset(n for i, n in enumerate(names) if mask >> i & 1)) for mask, cost in pieces.items())


def _topological(root: Any) -> list[Any]:
    """Return the autograd nodes below `root`, each before those that it feeds its gradient to."""
    order, state, stack = [], {}, [root]
    while stack:
        node = stack[-1]
        if state.get(node) is None:
            state[node] = "open"
            stack += [child for child, _ in node.next_functions if child is not None and child not in state]
        else:
            stack.pop()
            if state[node] == "open":
                state[node] = "done"
                order.append(node)
    return order[::-1]


@dataclass
class TaskCosts:
    """What learning a task costs, for selectors that ask: priced only if they do.

    epochs: passes over the data. samples: training samples of one pass. reuse: the share of a step's samples for which a
    cache would compute the frozen prefix, at most: 1 where there is no cache.
    """

    trace: Callable[[], StepCosts]
    epochs: int
    samples: int
    reuse: float = 1.0

    @cached_property
    def step(self) -> StepCosts:
        """The price list of one step on a full batch of the task."""
        return self.trace()

    def probe_samples(self, wanted: int, share: float = 1 / 96) -> int:
        """Return how many samples a probe may differentiate without costing more than `share` of full training."""
        return max(1, min(wanted, self.samples, int(share * self.samples * self.epochs)))
