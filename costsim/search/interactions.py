"""Terms taken apart: what hangs on one variable, and what on several only together.

A table over several variables is the sum of what it is where each takes its first choice, of what each alone changes
from there, of what two change beyond that, and so on. Most of these parts are zero: reads add up. What is left says
which variables have to be chosen together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.cost.terms import MERGED, Alternative, Counts, Terms, as_table, union_of

Integers = NDArray[Any]


_NOISE = 1e-13  # of floats, relative to the largest of a table


@dataclass(frozen=True, slots=True)
class Interactions:
    """Costs as sums of parts: by variables that only together make them, an array over their choices, costs last."""

    parts: dict[tuple[int, ...], Integers]
    alternatives: tuple[Alternative, ...]  # over too many variables for a table


def costs(counts: Integers) -> Integers:
    """The costs among what is counted, along the last axis, in the order of COSTS."""
    at = Counts._fields.index
    moved = counts[..., at("read_bits")] + counts[..., at("written_bits")]
    return np.stack([counts[..., at("priced")], moved, counts[..., at("quantize")]], axis=-1)


def take_apart(
    table: Integers, variables: tuple[int, ...], axis: int = 0, noise: float = 0
) -> Iterator[tuple[tuple[int, ...], Integers]]:
    """The parts of an array over the choices of some variables, from an axis on; those that are zero are left out.

    `noise`: of floats, how far what is zero may be from it by rounding.
    """
    if axis == len(variables):
        if table.any():
            yield variables, table
        return
    first = np.take(table, [0], axis=axis)
    yield from take_apart(first.squeeze(axis), (*variables[:axis], *variables[axis + 1 :]), axis, noise)
    change = table - first
    if noise:
        change[abs(change) <= noise] = 0
    if change.any():
        yield from take_apart(change, variables, axis + 1, noise)


def interactions(terms: Terms, counts_of: Callable[[Integers], Integers] = costs, most: int = MERGED) -> Interactions:
    """The parts of all terms; alternatives over at most so many combinations are tables."""
    sizes = terms.space.sizes
    parts: dict[tuple[int, ...], Integers] = {}
    kept = []
    tables = list(terms.tables)
    for conditions, counts in terms.alternatives:
        union = union_of(sizes, (condition.variables for condition in conditions), most)
        if union is None:
            kept.append(Alternative(conditions, counts_of(counts)))
        else:
            tables.append(as_table(sizes, conditions, counts, union))
    for variables, counts in tables:
        shaped = counts_of(counts).reshape(*(sizes[i] for i in variables), -1)
        noise = _NOISE * float(abs(shaped).max()) if shaped.dtype == np.float64 else 0
        for of, part in take_apart(shaped, variables, noise=noise):
            parts[of] = parts[of] + part if of in parts else part
    return Interactions({of: part for of, part in parts.items() if part.any()}, tuple(kept))


def components(number: int, together: Iterable[Sequence[int]]) -> list[tuple[int, ...]]:
    """The variables from 0 on in groups that have nothing to do with each other."""
    of = list(range(number))

    def root(i: int) -> int:
        while of[i] != i:
            of[i] = i = of[of[i]]
        return i

    for variables in together:
        for variable in variables[1:]:
            of[root(variable)] = root(variables[0])
    groups: dict[int, list[int]] = {}
    for i in range(number):
        groups.setdefault(root(i), []).append(i)
    return [tuple(group) for group in groups.values()]
