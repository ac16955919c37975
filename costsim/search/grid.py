"""What a policy costs under all cases of its assumptions at once: arrays with an axis for each assumption.

Integers are exact: of 64 bits where a bound on all sums proves that they fit, else Python's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.cost.classes import Globs
from costsim.cost.compile import Compiler, OfGemms, compile_step
from costsim.cost.terms import Counts, Terms
from costsim.errors import InputError
from costsim.graph.graph import Graph
from costsim.names import Scope, Traffic
from costsim.policy.cases import Cases, Clash
from costsim.policy.schedule import schedule

Integers = NDArray[Any]  # of int64, or of Python integers
Truths = NDArray[np.bool_]
Where = tuple[slice | int, ...]
MOVED, PRICED, UNPRICED = ("read_bits", "written_bits"), ("priced",), ("unpriced_macs",)


def _spread(sizes: Sequence[int], variables: Sequence[int], values: NDArray[Any]) -> NDArray[Any]:
    """A table over a few variables with an axis for each variable of the space; 1 long where it is none of them."""
    return values.reshape([size if i in variables else 1 for i, size in enumerate(sizes)])


def sum_of(terms: Terms, names: Sequence[str], steps: int) -> Integers:
    """The sum of some counts of a step, by combination; an axis on which nothing hangs is 1 long.

    As int64 if a run of so many steps fits in it, whatever their combinations.
    """
    sizes, columns = terms.space.sizes, [Counts._fields.index(name) for name in names]
    tables = [(of, counts[:, columns].sum(axis=1)) for of, counts in terms.tables]
    others = [(conditions, int(counts[columns].sum())) for conditions, counts in terms.alternatives]
    bound = sum(int(counts.max()) for _, counts in tables) + sum(count for _, count in others)
    dtype: Any = np.int64 if bound * steps < 2**63 else object
    parts = [_spread(sizes, of, counts.astype(dtype)) for of, counts in tables if counts.any()]
    for conditions, count in others:
        if count:
            holds = reduce(np.logical_or, (_spread(sizes, of, np.array(so)) for of, so in conditions))
            parts.append(holds.astype(dtype) * count)
    zero = np.zeros([1] * len(sizes), dtype)
    return reduce(np.add, sorted(parts, key=lambda part: part.size), zero)


def _slices(space: Cases) -> list[tuple[Where, Cases]]:
    """The space in parts in which formats differ by rules alone, and where each lies in arrays over the space.

    A format differs with every number and level, so tables over these too would be many times as large.
    """
    fixed = space.with_numbers
    slices: list[tuple[Where, Cases]] = []
    for chosen in product(*(range(space.sizes[i]) for i in fixed)):
        at = dict(zip(fixed, chosen, strict=True))
        where = tuple([slice(at[i], at[i] + 1) if i in at else slice(None) for i in range(len(space.sizes))])
        slices.append((where, space.slice(at)))
    return slices


class Grids:
    """The counts of a policy under all cases, on one graph, over runs of so many steps."""

    def __init__(self, graph: Graph, space: Cases, steps: int) -> None:
        self.graph, self.space, self.steps = graph, space, steps
        self.slices = _slices(space)
        self._gemms: dict[Globs, Compiler] = {}  # by those left out
        self.lengths = {chosen: self._lengths(chosen) for chosen in self._of_phases()}

    def _of_phases(self) -> list[tuple[int, ...]]:
        sizes, having = self.space.sizes, self.space.with_phases
        return list(product(*(range(sizes[i]) if i in having else (0,) for i in range(len(sizes)))))

    def _lengths(self, chosen: tuple[int, ...]) -> dict[int, int] | None:
        """By place of the levels: how many steps have them; None if phases overlap."""
        point = self.space.unphased(dict(enumerate(chosen)))
        try:
            lengths = schedule(point, self.steps)
        except InputError:
            return None
        steps: dict[int, int] = {}
        for phase, length in zip(point.file.phases, lengths, strict=True):
            place = self.space.levels.index(phase.levels)
            steps[place] = steps.get(place, 0) + length
        return steps

    def fits(self) -> Truths:
        """Which combinations are policies at all; an axis on which that does not hang is 1 long."""
        fits = np.ones([1] * len(self.space.sizes), bool)
        clashes: list[tuple[Where, list[Clash]]] = []
        for where, part in self.slices:
            try:
                clashes.append((where, part.family(self.graph).clashes))
            except InputError:
                clashes.append((where, [Clash((), (True,))]))
        if any(found for _, found in clashes):
            fits = np.ones(self.space.sizes, bool)
            for (where, part), (_, found) in zip(self.slices, clashes, strict=True):
                for variables, so in found:
                    fits[where] &= ~_spread(part.sizes, variables, np.array(so))
        return self._over_phases(fits, lambda of, lengths: np.logical_and.reduce([of[place] for place in lengths]))

    def arithmetic(self, law: str, left_out: Globs) -> tuple[Integers, Integers]:
        """The cost of the MACs of a run, and of how many MACs it is not defined; by combination."""
        if left_out not in self._gemms:
            gemms = Compiler(self.graph, self.space, 0, "unfused", "gemm", ("gemms", left_out))
            self._gemms[left_out] = gemms  # what is multiplied is found once for all laws
        terms = self._gemms[left_out].priced(law)
        return self._of_run(sum_of(terms, PRICED, self.steps)), self._of_run(sum_of(terms, UNPRICED, self.steps))

    def moved(self, traffic: Traffic, scope: Scope, of_gemms: OfGemms) -> Integers:
        """The bits that cross the DRAM interface in a run, by combination."""
        parts = []
        for where, part in self.slices:
            try:
                terms = compile_step(self.graph, part, traffic, scope, of_gemms, None)
                parts.append((where, sum_of(terms, MOVED, self.steps)))
            except InputError:  # it fits nowhere
                continue
        shape = list(np.broadcast_shapes(*(part.shape for _, part in parts)))
        for i in self.space.with_numbers:
            shape[i] = self.space.sizes[i]
        whole = np.zeros(shape, np.result_type(*(part.dtype for _, part in parts)))
        for where, sums in parts:
            whole[tuple([at if size > 1 else slice(None) for at, size in zip(where, shape, strict=True)])] = sums
        return self._of_run(whole)

    def _of_run(self, per_step: Integers) -> Integers:
        return self._over_phases(per_step, lambda of, lengths: sum(n * of[place] for place, n in lengths.items()))

    def _over_phases(
        self, per_step: NDArray[Any], over: Callable[[dict[int, NDArray[Any]], dict[int, int]], Any]
    ) -> NDArray[Any]:
        """What hangs on levels, over all phases of a run: the axis of levels goes, one of phases may come."""
        last, having = per_step.ndim - 1, self.space.with_phases
        shape = [self.space.sizes[i] if i in having else size for i, size in enumerate(per_step.shape[:last])]
        whole = np.zeros(shape, per_step.dtype)
        for chosen, lengths in self.lengths.items():
            if lengths is None:
                continue
            at = tuple([slice(n, n + 1) if i in having else slice(None) for i, n in enumerate(chosen[:last])])
            own = tuple([s if per_step.shape[i] > 1 else slice(None) for i, s in enumerate(at)])
            of = {n: per_step[(*own, n if per_step.shape[last] > 1 else 0)] for n in lengths}
            whole[at] = over(of, lengths)
        return whole

    @property
    def combinations(self) -> int:
        """How many there are."""
        return prod(self.space.sizes[:-1])
