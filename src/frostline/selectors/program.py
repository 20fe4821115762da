"""The integer program behind a budget: pieces of work with a price, and who makes them necessary."""

from collections.abc import Iterable, Sequence

import numpy as np


class Program:
    """Choose groups of parameters for the largest value under a limit on what their pieces cost.

    Variables: a binary for each group ('thawed'), and a number in [0, 1] for each piece that several groups can make
    necessary ('needed'), at least each of theirs. `spent` is what is paid whatever is chosen.
    """

    def __init__(self, groups: Sequence[Sequence[str]], always: frozenset[str]):
        self.always = always
        self.count = len(groups)
        self.spent = 0.0
        self._owner = {name: number for number, own in enumerate(groups) for name in own}
        self._prices = [0.0] * self.count
        self._at_least: list[tuple[int, int]] = []  # (x, y): variable x >= variable y

    def piece(self, cost: float, names: frozenset[str], floor: int | None = None) -> int | None:
        """Price a piece that any of `names`, or the piece `floor`, makes necessary.

        Return its variable, None where one of `names` always thaws: then it is paid in any case.
        """
        if names & self.always:
            self.spent += cost
            return None
        owners = {self._owner[n] for n in names}
        if len(owners) == 1 and floor is None:
            only = owners.pop()
            self._prices[only] += cost
            return only
        variable = len(self._prices)
        self._prices.append(cost)
        self._at_least += [(variable, other) for other in (*owners, *([] if floor is None else [floor]))]
        return variable

    def maximise(self, values: Iterable[float], limit: float, scale: float) -> list[bool]:
        """Return which groups to choose, solved by scipy (HiGHS) to optimality, within its tolerance in units of `scale`."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import lil_array

        order, columns = len(self._at_least), len(self._prices)
        rows, upper = lil_array((order + 1, columns)), np.zeros(order + 1)
        for number, (x, y) in enumerate(self._at_least):
            rows[number, x], rows[number, y] = -1, 1
        rows[order, :] = np.array(self._prices) / scale
        upper[order] = (limit - self.spent) / scale
        worth = np.zeros(columns)
        worth[: self.count] = list(values)
        answer = milp(
            -worth / (worth.max() or 1.0),
            integrality=(np.arange(columns) < self.count).astype(int),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(rows.tocsr(), ub=upper),  # type: ignore[arg-type]
            options={"mip_rel_gap": 0.0},
        )
        return [False] * self.count if answer.x is None else [bool(round(x)) for x in answer.x[: self.count]]
