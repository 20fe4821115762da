"""A net as it was, sharing all that has not moved since: what distillation asks at every step."""

import copy
from collections import deque
from collections.abc import Mapping
from itertools import chain

from torch import Tensor, nn


class Shadows:
    """Copies of a model's modules, in eval mode, around tensors that are not copied.

    Faster than to exchange tensors and modes at each call and to put them back. Worth it where the same tensors are asked for
    again, so the first call with some makes none.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._made: dict[int, tuple[Mapping[str, Tensor], list[Tensor], nn.Module | None]] = {}
        self._seen: deque[int] = deque(maxlen=4)

    def of(self, weights: Mapping[str, Tensor]) -> nn.Module | None:
        """Return the model with `weights` in the place of its own, None where they are new or it cannot be copied."""
        key, found = id(weights), self._made.get(id(weights))
        if found is not None and all(a is b for a, b in zip(found[1], weights.values(), strict=True)):
            return found[2]
        if key not in self._seen:
            self._seen.append(key)
            return None
        own = dict(
            chain(self.model.named_parameters(remove_duplicate=False), self.model.named_buffers(remove_duplicate=False))
        )
        memo = {id(tensor): tensor for tensor in own.values()}
        memo.update({id(own[name]): value for name, value in weights.items()})  # whatever other names it has
        try:
            made = copy.deepcopy(self.model, memo).eval()
        except Exception:  # a part that cannot be copied: an open file, a tensor with a history
            made = None
        if len(self._made) > 2:
            self._made.clear()
        self._made[key] = (weights, list(weights.values()), made)
        return made
