"""Terms taken apart: what hangs on one variable, and what on several only together.

A table over several variables is the sum of what it is where each takes its first choice, of what each alone changes
from there, of what two change beyond that, and so on. Most of these parts are zero: reads add up. What is left says
which variables have to be chosen together.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from costsim.cost.terms import Alternative, Counts, Terms, as_table, union_of

Integers = NDArray[Any]


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
    table: Integers, variables: tuple[int, ...], axis: int = 0
) -> Iterator[tuple[tuple[int, ...], Integers]]:
    """The parts of an array over the choices of some variables, from an axis on; those that are zero are left out."""
    if axis == len(variables):
        if table.any():
            yield variables, table
        return
    first = np.take(table, [0], axis=axis)
    yield from take_apart(first.squeeze(axis), (*variables[:axis], *variables[axis + 1 :]), axis)
    if (change := table - first).any():
        yield from take_apart(change, variables, axis + 1)


def interactions(terms: Terms) -> Interactions:
    """The parts of all terms."""
    sizes = terms.space.sizes
    parts: dict[tuple[int, ...], Integers] = {}
    kept = []
    tables = list(terms.tables)
    for conditions, counts in terms.alternatives:
        union = union_of(sizes, (condition.variables for condition in conditions))
        if union is None:
            kept.append(Alternative(conditions, costs(counts)))
        else:
            tables.append(as_table(sizes, conditions, counts, union))
    for variables, counts in tables:
        shaped = costs(counts).reshape(*(sizes[i] for i in variables), -1)
        for of, part in take_apart(shaped, variables):
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
