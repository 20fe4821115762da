"""Memories of past samples.

Every sample gets a rank on arrival and a buffer keeps the lowest: with random ranks that is reservoir sampling, with
ranks counted within each class it is a class-balanced memory, with recency for chance it is a ring.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.rng import derive, generator
from frostline.core.types import Batch, batch_of


def _shares(sizes: np.ndarray, capacity: int) -> tuple[int, int]:
    """Return how many places each class may have, going round until all are given, and how many places then remain."""
    rising = np.sort(sizes)
    # with a share as large as the i-th class, the i classes below are whole and the others have that share
    filled = np.cumsum(rising) - rising + rising * np.arange(len(rising), 0, -1)
    whole = int(np.searchsorted(filled, capacity, side="right"))
    share = (capacity - int(rising[:whole].sum())) // (len(rising) - whole)
    return share, capacity - int(np.minimum(sizes, share).sum())


class Buffer:
    """Up to `capacity` samples with all their columns, kept by one rule.

    - `reservoir`: a uniform sample of all that was added (Vitter 1985).
    - `class_balanced`: equally many of each class as far as they go round, a uniform sample within the class
      (Prabhu et al. 2020, GDumb).
    - `ring`: the latest of each class, equally many of each (Chaudhry et al. 2019, arXiv 1902.10486).
    - `herding`: equally many of each class, the first in an order that whoever adds them says (Rebuffi et al. 2017).
    - `gss`: unlike each other, by a likeness between -1 and 1 that whoever adds them says (Aljundi et al. 2019, arXiv
      1903.08671, algorithm 2).
    """

    RULES = ("reservoir", "class_balanced", "ring", "herding", "gss")
    ORDERED = ("herding", "gss")  # want a number a sample

    def __init__(self, capacity: int, rule: str = "reservoir", seed: int = 0):
        in_range("capacity", capacity, 1)
        one_of("buffer", rule, self.RULES)
        self.capacity = capacity
        self.rule = rule
        self.seen = 0
        self.keys = np.empty(0)
        self.highest = np.inf  # of the keys
        self.labels = np.empty(0, dtype=np.int64)
        self.columns: dict[str, Tensor] = {}
        self._places_of: dict[int, np.ndarray] = {}  # each class's, the lowest keys first; only for the rules by class
        self._keys = np.random.Generator(np.random.PCG64(derive(seed, "buffer-keys")))
        self._draws = generator(seed, "buffer-draws")

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, batch: Batch, order: np.ndarray | None = None) -> None:
        """Offer a batch; only what is kept is copied. order: each sample's place in its class, or likeness, [B]."""
        arrivals = np.arange(self.seen, self.seen + len(batch), dtype=np.float64)
        self.seen += len(batch)
        if (order is None) == (self.rule in self.ORDERED):
            raise ValueError(f"buffer={self.rule}: an order is for {' and '.join(self.ORDERED)}, which need one")
        if order is not None and self.rule == "gss":
            self._put(batch, *self._unlike(order + 1))
            return
        fresh = order if order is not None else -arrivals if self.rule == "ring" else self._keys.random(len(batch))
        if self.rule == "reservoir" and len(self) == self.capacity and fresh.min(initial=np.inf) > self.highest:
            return  # none of them stays: after many samples that is nearly always so
        keys, held = np.r_[self.keys, fresh], len(self)
        if self.rule != "reservoir":
            dropped = self._beyond_their_share(keys, self._classes(batch))
        elif len(keys) > self.capacity:
            dropped = np.argpartition(keys, self.capacity)[self.capacity :]
        else:
            dropped = np.empty(0, dtype=np.int64)
        kept = np.ones(len(keys), dtype=bool)
        kept[dropped] = False
        rows = np.flatnonzero(kept[held:])
        free = np.r_[np.sort(dropped[dropped < held]), np.arange(held, self.capacity)][: len(rows)]
        self._put(batch, rows, free, fresh)
        if self.rule != "reservoir":
            self._settle(held, rows, free)

    def _beyond_their_share(self, keys: np.ndarray, arrived: np.ndarray) -> np.ndarray:
        """Return the places, counted on into the arrivals, of what no longer fits; only the classes that arrive are sorted."""
        places = self._places_of
        for label in np.unique(arrived).tolist():
            new = len(self) + np.flatnonzero(arrived == label)
            own = np.r_[places.get(label, new[:0]), new]
            places[label] = own[np.argsort(keys[own], kind="stable")]
        if len(keys) <= self.capacity:
            return np.empty(0, dtype=np.int64)
        share, rest = _shares(np.array([len(own) for own in places.values()]), self.capacity)
        more = np.array([own[share] for own in places.values() if len(own) > share], dtype=np.int64)
        more = set(more[np.lexsort((more, keys[more]))[:rest]].tolist())
        dropped = []
        for label, own in places.items():
            if len(own) > share:
                size = share + (int(own[share]) in more)
                dropped.append(own[size:])
                places[label] = own[:size]
        return np.concatenate(dropped)

    def _settle(self, held: int, rows: np.ndarray, slots: np.ndarray) -> None:
        """Call the arrivals by their places; equal keys go by place, so that a restored memory goes on as this one does."""
        place = np.arange(held + int(rows.max(initial=-1)) + 1)
        place[held + rows] = slots
        for label in np.unique(self.labels[slots]).tolist():
            own = place[self._places_of[label]]
            equal = (np.diff(self.keys[own]) == 0).any()
            self._places_of[label] = own[np.lexsort((own, self.keys[own]))] if equal else own

    def _put(self, batch: Batch, rows: np.ndarray, slots: np.ndarray, keys: np.ndarray) -> None:
        """Copy rows of a batch to slots, which may be the next free ones."""
        self._write(batch, torch.from_numpy(rows), torch.from_numpy(slots))
        size = max(len(self), int(slots.max(initial=-1)) + 1)
        self.keys, self.labels = np.resize(self.keys, size), np.resize(self.labels, size)
        self.keys[slots], self.labels[slots] = keys[rows], self._classes(batch)[rows]
        self.highest = float(self.keys.max(initial=-np.inf))

    def _unlike(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which samples go where: one that is like none held takes the place of one that is like others, by chance."""
        keys, taken = list(self.keys), {}
        for row, score in enumerate(scores):
            slot = len(keys)
            if slot < self.capacity:
                keys.append(score)
            elif score < 1:  # at an obtuse angle to all that it was held against
                slot = int(self._keys.choice(slot, p=np.array(keys) / sum(keys)))
                if self._keys.random() >= keys[slot] / (keys[slot] + score):
                    continue
                keys[slot] = score
            else:
                continue
            taken[slot] = row
        return np.array([*taken.values()], dtype=np.int64), np.array([*taken], dtype=np.int64), scores

    def _classes(self, batch: Batch) -> np.ndarray:
        """Return each sample's class; the rules that go by it want one label a sample."""
        if batch.y.ndim == 1 and not batch.y.is_floating_point():
            return batch.y.cpu().numpy()
        if self.rule not in ("reservoir", "gss"):
            raise UsageError(
                f"buffer={self.rule} goes by classes, and these samples have no single one. Use reservoir."
            )
        return np.zeros(len(batch), dtype=np.int64)

    def _write(self, batch: Batch, rows: Tensor, slots: Tensor) -> None:
        for name, value in batch.tensors().items():
            if name not in self.columns:
                self.columns[name] = value.new_zeros((self.capacity, *value.shape[1:]))
            column = self.columns[name]
            column[slots.to(column.device)] = value[rows.to(value.device)]

    def draw(self, size: int) -> Batch:
        """Return min(size, len) different samples at random, marked as `replayed`."""
        rows = self._places(min(size, len(self))).to(self.columns["y"].device)
        return self._marked({name: column.index_select(0, rows) for name, column in self.columns.items()})

    def _places(self, size: int) -> Tensor:
        """Return `size` different places at random; of a large memory few are drawn without putting all in an order."""
        if len(self) < 4096 or size > len(self) // 8:
            return torch.randperm(len(self), generator=self._draws)[:size]
        while True:
            drawn = torch.randint(len(self), (2 * size,), generator=self._draws).numpy()
            _, first = np.unique(drawn, return_index=True)
            if len(first) >= size:
                return torch.from_numpy(drawn[np.sort(first)[:size]])

    def all(self) -> Batch:
        """Return everything held, marked as `replayed`."""
        return self._marked({name: column[: len(self)] for name, column in self.columns.items()})

    @staticmethod
    def _marked(tensors: dict[str, Tensor]) -> Batch:
        tensors["replayed"] = torch.ones(len(tensors["y"]), dtype=torch.bool, device=tensors["y"].device)
        return batch_of(tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of the samples held."""
        if not self.columns:
            return 0
        return sum(c[0].numel() * c.element_size() for c in self.columns.values()) * len(self)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values that restore the buffer and its random numbers."""
        rng: Any = self._keys.bit_generator.state["state"]
        return {
            "columns": {name: column[: len(self)] for name, column in self.columns.items()},
            "keys": torch.from_numpy(self.keys),
            "labels": torch.from_numpy(self.labels),
            "seen": self.seen,
            "key_generator": [str(rng["state"]), str(rng["inc"])],
            "draw_generator": self._draws.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned; the tensors are copied."""
        self.columns = {}
        for name, held in state["columns"].items():
            self.columns[name] = held.new_zeros((self.capacity, *held.shape[1:]))
            self.columns[name][: len(held)] = held
        self.keys, self.labels = state["keys"].numpy().copy(), state["labels"].numpy().copy()
        self.seen, self.highest = state["seen"], float(self.keys.max(initial=-np.inf))
        if self.rule not in ("reservoir", "gss"):
            order = np.lexsort((self.keys, self.labels))
            known = np.unique(self.labels).tolist()
            self._places_of = {label: order[self.labels[order] == label] for label in known}
        full: Any = self._keys.bit_generator.state
        full["state"] = dict(zip(("state", "inc"), map(int, state["key_generator"]), strict=True))
        self._keys.bit_generator.state = full
        self._draws.set_state(state["draw_generator"])
